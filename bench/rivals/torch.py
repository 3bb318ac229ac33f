"""Contender PyTorch: nn.RNN, nn.LSTM, nn.GRU; oneDNN's LSTM on a CPU, cuDNN on a GPU.

It has as many threads as XLA's pool. Ragged batches are packed. The modules have no resets within a
sequence, so there the steps run one by one, as usual in reinforcement learning with PyTorch.
"""

from collections.abc import Callable
from typing import Any

import jax
import ml_dtypes
import numpy as np
import torch

from lstm_jax import interop

from .. import record
from ..contender import Answer, Cannot, Program, one_bias, refuse
from ..problem import Problem
from . import INSTALL as INSTALL

NAME = "torch"


def program(problem: Problem, mode: str) -> Program:
    refuse(problem)
    torch.set_num_threads(record.threads())
    device = "cuda" if jax.default_backend() == "gpu" and torch.cuda.is_available() else "cpu"
    if device == "cpu" and jax.default_backend() != "cpu":
        raise Cannot(f"sees no {jax.default_backend()}")
    module = _module(problem).to(device)
    module.load_state_dict(_load(problem.net, problem.params, device))
    call, answer = MODES[mode](problem, module, device)
    return Program(call, _wait(device), answer, device_peak=_device_peak(device))


# ---- modes ---------------------------------------------------------------------------------------
Mode = tuple[Callable[[], Any], Callable[[Any], Answer]]


def _fwd(problem: Problem, module: Any, device: str) -> Mode:
    run, xs = _forward(problem, device), _tensor(problem.xs, device)

    @torch.inference_mode()
    def call() -> Any:
        return run(module, xs)

    return call, lambda ys: {"ys": _numpy(ys)}


def _train(problem: Problem, module: Any, device: str) -> Mode:
    run, xs = _forward(problem, device), _tensor(problem.xs, device).requires_grad_()
    names, weights = zip(*module.named_parameters(), strict=True)

    def call() -> Any:
        loss = run(module, xs).square().mean()
        return loss, torch.autograd.grad(loss, (*weights, xs))

    def answer(out: Any) -> Answer:
        loss, (*grads, d_xs) = out
        state = {name: _numpy(grad) for name, grad in zip(names, grads, strict=True)}
        params = interop.from_torch(state, double_bias=True)[1]
        return {"loss": _numpy(loss), "grads": one_bias(params), "xs": _numpy(d_xs)}

    return call, answer


def _jvp(problem: Problem, module: Any, device: str) -> Mode:
    run = _forward(problem, device)
    primals = _load(problem.net, problem.params, device), _tensor(problem.xs, device)
    tangents = _load(problem.net, problem.d_params, device), _tensor(problem.d_xs, device)

    def forward(weights: Any, xs: Any) -> Any:
        return run(lambda *given: torch.func.functional_call(module, weights, given), xs)

    def call() -> Any:
        return torch.func.jvp(forward, primals, tangents)

    return call, lambda out: {"ys": _numpy(out[0]), "d_ys": _numpy(out[1])}


MODES = {"fwd": _fwd, "train": _train, "jvp": _jvp}


# ---- the network ---------------------------------------------------------------------------------
def _module(problem: Problem) -> Any:
    case = problem.case
    kinds = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU}
    options: dict[str, Any] = {"num_layers": case.L, "bidirectional": case.bidirectional}
    options["dtype"] = getattr(torch, case.dtype)
    if case.cell in kinds:
        return kinds[case.cell](case.D, case.H, **options)
    nonlinearity = "tanh" if case.cell == "rnn" else "relu"
    return torch.nn.RNN(case.D, case.H, nonlinearity=nonlinearity, **options)


def _forward(problem: Problem, device: str) -> Callable[[Any, Any], Any]:
    """Make the forward function (module, xs) -> ys [T, B, N]."""
    if problem.lengths is not None:
        return _packed(torch.from_numpy(problem.lengths).long(), problem.case.T)
    if problem.resets is not None:
        return _restarting(torch.from_numpy(~problem.resets).to(device))
    return lambda module, xs: module(xs)[0]


def _packed(lengths: Any, steps: int) -> Callable[[Any, Any], Any]:
    rnn = torch.nn.utils.rnn

    def forward(module: Any, xs: Any) -> Any:
        ys, _ = module(rnn.pack_padded_sequence(xs, lengths, enforce_sorted=False))
        return rnn.pad_packed_sequence(ys, total_length=steps)[0]

    return forward


def _restarting(keeps: Any) -> Callable[[Any, Any], Any]:
    """Make a forward function that runs step by step and multiplies the state by `keeps` [T, B]."""

    def forward(module: Any, xs: Any) -> Any:
        ys, state = [], None
        for x, keep in zip(xs[:, None], keeps[:, None, :, None].to(xs.dtype), strict=True):
            if isinstance(state, tuple):
                state = tuple(leaf * keep for leaf in state)
            elif state is not None:
                state = state * keep
            y, state = module(x, state)
            ys.append(y)
        return torch.cat(ys)

    return forward


# ---- arrays --------------------------------------------------------------------------------------
def _load(net: Any, params: Any, device: str) -> dict[str, Any]:
    state = interop.to_torch(net, params)
    return {name: _tensor(array, device) for name, array in state.items()}


def _tensor(array: np.ndarray, device: str) -> Any:
    if array.dtype == ml_dtypes.bfloat16:  # torch cannot read NumPy's bfloat16.
        return torch.from_numpy(array.astype(np.float32)).bfloat16().to(device)
    return torch.from_numpy(np.array(array)).to(device)


def _numpy(tensor: Any) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _wait(device: str) -> Callable[[Any], None]:
    return (lambda out: torch.cuda.synchronize()) if device == "cuda" else (lambda out: None)


def _device_peak(device: str) -> Callable[[], int] | None:
    if device == "cpu":
        return None
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.max_memory_allocated
