// All that is compiled once for each instruction set: vectors of WIDTH bytes, and what is made of them.

#include "vector.h"
#include "matrices.h"
#include "dots.h"
#include "tiles.h"
#include "matmul.h"
#include "product.h"
#include "program.h"
#include "layer.h"
#include "recurrence.h"
#include "calls.h"
