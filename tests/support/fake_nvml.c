/* A fake libnvidia-ml.so.1 for machines without a GPU. The real pynvml loads and calls it.
 *
 * It reads its GPUs from the file named by FAKE_GPUS at each call, one item per line:
 *   gpu UUID NAME TOTAL_MIB USED_MIB BUSY_PERCENT MIG COMPUTE_MODE      underscores in NAME become spaces
 *   proc GPU PID MIB compute|graphics
 *   fail FUNCTION ERROR                                                 error codes of nvml.h
 *   hang FUNCTION SECONDS
 * Workers whose environment names a GPU are on it, and each takes WORKER_MIB of its memory. Compiled with -DOLD, it
 * lacks the functions that drivers before R510 lack.
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
enum { MAX_GPUS = 16, MIB = 1 << 20, OK = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, UNKNOWN = 999 };
enum { COMPUTE, GRAPHICS, KINDS };

static gpu_t gpus[MAX_GPUS];
static process_t processes[MAX_GPUS][KINDS][256];
static unsigned process_counts[MAX_GPUS][KINDS], gpu_count;

static int read_file(const char *path, char *buffer, int size) {
  FILE *file = fopen(path, "r");
  if (!file) return 0;
  int length = fread(buffer, 1, size - 1, file);
  fclose(file);
  buffer[length] = 0;
  return length;
}

/* Whether a list of strings, each ended by a null byte, contains a string. */
static int contains(const char *list, int length, const char *string) {
  for (int i = 0; i < length; i += strlen(list + i) + 1) if (!strcmp(list + i, string)) return 1;
  return 0;
}

/* Put every running worker on the GPU that its environment names. */
static void add_workers(void) {
  static char environment[1 << 16], arguments[1 << 14];
  DIR *proc = opendir("/proc");
  struct dirent *entry;
  while (proc && (entry = readdir(proc))) {
    int pid = atoi(entry->d_name), length;
    char path[64], variable[128];
    if (pid <= 0) continue;
    snprintf(path, 64, "/proc/%d/cmdline", pid);
    if (!(length = read_file(path, arguments, sizeof arguments)) || !contains(arguments, length, "--in-fd")) continue;
    snprintf(path, 64, "/proc/%d/environ", pid);
    length = read_file(path, environment, sizeof environment);
    for (unsigned g = 0; g < gpu_count; g++) {
      snprintf(variable, 128, "CUDA_VISIBLE_DEVICES=%s", gpus[g].uuid);
      if (!contains(environment, length, variable)) continue;
      processes[g][COMPUTE][process_counts[g][COMPUTE]++] = (process_t){pid, WORKER_MIB * MIB, -1u, -1u};
      gpus[g].used += WORKER_MIB * MIB;
      gpus[g].util = 96;
    }
  }
  if (proc) closedir(proc);
}

/* Read the file. Return the error that it gives for a function, after the time for which the function hangs. */
static int load(const char *function) {
  char line[512], kind[64], name[64];
  FILE *file = fopen(getenv("FAKE_GPUS"), "r");
  if (!file) return UNKNOWN;
  gpu_count = 0;
  memset(process_counts, 0, sizeof process_counts);
  int result = OK, number;
  unsigned g, pid;
  unsigned long long mib;
  while (fgets(line, 512, file)) {
    gpu_t gpu = {0};
    if (sscanf(line, "gpu %63s %63s %llu %llu %u %u %u", gpu.uuid, gpu.name, &gpu.total, &gpu.used, &gpu.util, &gpu.mig, &gpu.mode) >= 2) {
      gpu.total *= MIB; gpu.used *= MIB;
      for (char *c = gpu.name; *c; c++) if (*c == '_') *c = ' ';
      gpus[gpu_count++] = gpu;
    } else if (sscanf(line, "proc %u %u %llu %63s", &g, &pid, &mib, kind) == 4) {
      int k = strcmp(kind, "graphics") ? COMPUTE : GRAPHICS;
      processes[g][k][process_counts[g][k]++] = (process_t){pid, mib * MIB, -1u, -1u};
      gpus[g].used += mib * MIB;
    } else if (sscanf(line, "fail %63s %d", name, &number) == 2 && !strcmp(name, function)) result = number;
    else if (sscanf(line, "hang %63s %d", name, &number) == 2 && !strcmp(name, function)) sleep(number);
  }
  fclose(file);
  if (!result) add_workers();
  return result;
}

#define LOAD int result = load(__func__); if (result) return result
#define GPU gpus[(uintptr_t)handle - 1]
int nvmlInitWithFlags(unsigned flags) { LOAD; return OK; }
int nvmlShutdown(void) { return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { LOAD; *count = gpu_count; return OK; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
  LOAD;
  if (index >= gpu_count) return INVALID_ARGUMENT;
  *handle = (void *)(uintptr_t)(index + 1);
  return OK;
}
int nvmlDeviceGetUUID(void *handle, char *uuid, unsigned size) { LOAD; snprintf(uuid, size, "%s", GPU.uuid); return OK; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) { LOAD; snprintf(name, size, "%s", GPU.name); return OK; }
int nvmlDeviceGetMemoryInfo(void *handle, memory_t *memory) {
  LOAD;
  *memory = (memory_t){GPU.total, GPU.total - GPU.used, GPU.used};
  return OK;
}
int nvmlDeviceGetUtilizationRates(void *handle, utilization_t *rates) { LOAD; *rates = (utilization_t){GPU.util, 0}; return OK; }
int nvmlDeviceGetMigMode(void *handle, unsigned *now, unsigned *next) {
  LOAD;
  if (GPU.mig == 2) return NOT_SUPPORTED;
  *now = *next = GPU.mig;
  return OK;
}
int nvmlDeviceGetComputeMode(void *handle, unsigned *mode) { LOAD; *mode = GPU.mode; return OK; }
int nvmlDeviceGetTotalEccErrors(void *handle, unsigned type, unsigned counter, unsigned long long *errors) { LOAD; return NOT_SUPPORTED; }
static int list_processes(void *handle, int kind, unsigned *count, process_t *list) {
  unsigned here = process_counts[(uintptr_t)handle - 1][kind], room = *count;
  *count = here;
  if (here > room) return INSUFFICIENT_SIZE;
  if (here) memcpy(list, processes[(uintptr_t)handle - 1][kind], here * sizeof *list);
  return OK;
}
#ifndef OLD
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *count, process_t *list) { LOAD; return list_processes(handle, COMPUTE, count, list); }
int nvmlDeviceGetGraphicsRunningProcesses_v3(void *handle, unsigned *count, process_t *list) { LOAD; return list_processes(handle, GRAPHICS, count, list); }
#endif
const char *nvmlErrorString(int code) { static char text[32]; snprintf(text, 32, "fake error %d", code); return text; }
