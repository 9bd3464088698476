/* A pretended libnvidia-ml.so.1, since these tests run where no GPU is: the real pynvml loads it and calls it.
 *
 * Its GPUs are what the file named by PRETENDED_GPUS says at each call, a line each; they compute nothing:
 *   gpu UUID NAME TOTAL_MIB USED_MIB BUSY_PERCENT MIG COMPUTE_MODE      underscores in NAME are spaces
 *   proc GPU PID MIB compute|graphics
 *   fail FUNCTION ERROR                                                 as nvml.h numbers errors
 *   hang FUNCTION SECONDS
 * Workers whose environment names a GPU are on it, each with WORKER_MIB of its memory. With -DOLD it lacks what drivers
 * before R510 lack.
 */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned long long total, free, used; } memory_t;
typedef struct { unsigned gpu, memory; } utilization_t;
typedef struct { unsigned pid; unsigned long long used; unsigned gi, ci; } process_t;
typedef struct { char uuid[64], name[64]; unsigned long long total, used; unsigned util, mig, mode; } gpu_t;
#define WORKER_MIB 1500ull
enum { MOST = 16, MIB = 1 << 20, OK = 0, BAD_ARGUMENT = 2, TOO_SMALL = 7 };

static gpu_t gpus[MOST];
static process_t procs[MOST][2][256];
static unsigned counts[MOST][2], count;

static int slurp(const char *path, char *into, int room) {
  FILE *f = fopen(path, "r");
  if (!f) return 0;
  int n = fread(into, 1, room - 1, f);
  fclose(f);
  into[n] = 0;
  return n;
}
static int holds(const char *text, int n, const char *word) {
  for (int i = 0; i < n; i += strlen(text + i) + 1) if (!strcmp(text + i, word)) return 1;
  return 0;
}
static void workers(void) {
  static char env[1 << 16], cmd[1 << 14];
  DIR *d = opendir("/proc");
  struct dirent *e;
  while (d && (e = readdir(d))) {
    int pid = atoi(e->d_name), n;
    char path[64], word[128];
    if (pid <= 0) continue;
    snprintf(path, 64, "/proc/%d/cmdline", pid);
    if (!(n = slurp(path, cmd, sizeof cmd)) || !holds(cmd, n, "--in-fd")) continue;
    snprintf(path, 64, "/proc/%d/environ", pid);
    n = slurp(path, env, sizeof env);
    for (unsigned g = 0; g < count; g++) {
      snprintf(word, 128, "CUDA_VISIBLE_DEVICES=%s", gpus[g].uuid);
      if (!holds(env, n, word)) continue;
      procs[g][0][counts[g][0]++] = (process_t){pid, WORKER_MIB * MIB, -1u, -1u};
      gpus[g].used += WORKER_MIB * MIB;
      gpus[g].util = 96;
    }
  }
  if (d) closedir(d);
}
static int look(const char *function) {
  char line[512], a[64], b[64];
  FILE *f = fopen(getenv("PRETENDED_GPUS"), "r");
  if (!f) return 999;
  count = 0;
  memset(counts, 0, sizeof counts);
  int failed = OK, x;
  unsigned g, p;
  unsigned long long m;
  while (fgets(line, 512, f)) {
    gpu_t one = {0};
    if (sscanf(line, "gpu %63s %63s %llu %llu %u %u %u", one.uuid, one.name, &one.total, &one.used, &one.util, &one.mig, &one.mode) >= 2) {
      one.total *= MIB; one.used *= MIB;
      for (char *c = one.name; *c; c++) if (*c == '_') *c = ' ';
      gpus[count++] = one;
    } else if (sscanf(line, "proc %u %u %llu %63s", &g, &p, &m, a) == 4) {
      int k = !strcmp(a, "graphics");
      procs[g][k][counts[g][k]++] = (process_t){p, m * MIB, -1u, -1u};
      gpus[g].used += m * MIB;
    } else if (sscanf(line, "fail %63s %d", b, &x) == 2 && !strcmp(b, function)) failed = x;
    else if (sscanf(line, "hang %63s %d", b, &x) == 2 && !strcmp(b, function)) sleep(x);
  }
  fclose(f);
  if (!failed) workers();
  return failed;
}
#define LOOK int r = look(__func__); if (r) return r
int nvmlInitWithFlags(unsigned flags) { LOOK; return OK; }
int nvmlShutdown(void) { return OK; }
int nvmlDeviceGetCount_v2(unsigned *n) { LOOK; *n = count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, void **h) { LOOK; if (i >= count) return BAD_ARGUMENT; *h = (void *)(uintptr_t)(i + 1); return OK; }
#define GPU gpus[(uintptr_t)h - 1]
int nvmlDeviceGetUUID(void *h, char *s, unsigned n) { LOOK; snprintf(s, n, "%s", GPU.uuid); return OK; }
int nvmlDeviceGetName(void *h, char *s, unsigned n) { LOOK; snprintf(s, n, "%s", GPU.name); return OK; }
int nvmlDeviceGetMemoryInfo(void *h, memory_t *m) { LOOK; *m = (memory_t){GPU.total, GPU.total - GPU.used, GPU.used}; return OK; }
int nvmlDeviceGetUtilizationRates(void *h, utilization_t *u) { LOOK; *u = (utilization_t){GPU.util, 0}; return OK; }
int nvmlDeviceGetMigMode(void *h, unsigned *now, unsigned *next) { LOOK; if (GPU.mig == 2) return 3; *now = *next = GPU.mig; return OK; }
int nvmlDeviceGetComputeMode(void *h, unsigned *m) { LOOK; *m = GPU.mode; return OK; }
int nvmlDeviceGetTotalEccErrors(void *h, unsigned t, unsigned c, unsigned long long *n) { LOOK; return 3; }
static int list(void *h, int kind, unsigned *n, process_t *into) {
  unsigned here = counts[(uintptr_t)h - 1][kind], room = *n;
  *n = here;
  if (here > room) return TOO_SMALL;
  if (here) memcpy(into, procs[(uintptr_t)h - 1][kind], here * sizeof *into);
  return OK;
}
#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(void *h, unsigned *n, process_t *p) { LOOK; return list(h, 0, n, p); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, unsigned *n, process_t *p) { LOOK; return list(h, 1, n, p); }
#endif
const char *nvmlErrorString(int code) { static char s[32]; snprintf(s, 32, "pretended error %d", code); return s; }
