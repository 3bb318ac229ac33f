// What a thread of the emulated GPU knows of itself.

struct Words;

struct Thread {
  int thread, block, rank;
  char* const* shared;  // the memory of each block of the cluster
  void (*block_barrier)(Thread*);
  void (*cluster_barrier)(Thread*);
  void (*warp_barrier)(Thread*);
  Words* warp;  // two of each thread of the warp
  void* barriers;
};
