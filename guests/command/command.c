/* The command guest: no server. It does what its arguments say, one after the other, so that a test of
   containers can see from within what a container is given.

     say TEXT, complain TEXT    writes a line to standard output, or to standard error
     env NAME                   its value, or an empty line
     copy                       standard input to standard output
     cat PATH                   the file
     write PATH TEXT            makes the file: written
     list PATH                  the names in the folder, sorted, on a line
     ask HOST PORT PATH         the body that an HTTP server answers, the host found by its name
     grow MIB                   so much more memory, all of it written to: grown
     sleep MS
     await PATH                 until there is a file
     exit CODE, trap, spin      ends, traps, computes for ever

   What fails says so in a line of standard error that begins with its name, and ends the guest with 1. */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

enum { INET4 = 1, STREAM = 2, NAMES_MAX = 256, ANSWER_MAX = 64 << 10, MIB = 1 << 20 };

/* WasmEdge's: an address without its port, a sockaddr, and a result of a lookup. */
typedef struct { const void *bytes; uint32_t length; } address;
typedef struct { uint8_t family; uint32_t length; uint8_t *bytes; } sockaddr;
typedef struct addrinfo {
  uint16_t flags;
  uint8_t family, type;
  uint32_t protocol, address_length;
  sockaddr *address;
  char *name;
  uint32_t name_length;
  struct addrinfo *next;
} addrinfo;
_Static_assert(sizeof(addrinfo) == 28, "as WasmEdge lays it out");

IMPORT("sock_open") int32_t sock_open(int32_t family, int32_t type, int32_t *fd);
IMPORT("sock_connect") int32_t sock_connect(int32_t fd, const address *address, int32_t port);
IMPORT("sock_getaddrinfo")
int32_t sock_getaddrinfo(const char *node, uint32_t node_length, const char *service, uint32_t service_length,
                         const addrinfo *hints, addrinfo **results, uint32_t most, uint32_t *count);

static _Noreturn void fail(const char *what, const char *why) {
  fprintf(stderr, "%s: %s\n", what, why);
  exit(1);
}

static _Noreturn void fail_with(const char *what, int error) {
  char number[32];
  snprintf(number, sizeof number, "errno %d", error);
  fail(what, number);
}

static void copy(FILE *from) {
  char bytes[4096];
  for (size_t length; (length = fread(bytes, 1, sizeof bytes, from)) > 0;) fwrite(bytes, 1, length, stdout);
}

static void cat(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) fail("cat", strerror(errno));
  copy(file);
  fclose(file);
}

static void write_file(const char *path, const char *text) {
  FILE *file = fopen(path, "w");
  if (!file || fputs(text, file) < 0 || fclose(file) != 0) fail("write", strerror(errno));
  puts("written");
}

static int in_order(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static void list(const char *path) {
  char *names[NAMES_MAX];
  size_t count = 0;
  DIR *folder = opendir(path);
  if (!folder) fail("list", strerror(errno));
  for (struct dirent *entry; count < NAMES_MAX && (entry = readdir(folder));)
    if (entry->d_name[0] != '.') names[count++] = strdup(entry->d_name);
  closedir(folder);
  qsort(names, count, sizeof *names, in_order);
  for (size_t i = 0; i < count; i++) printf("%s%s", i ? " " : "", names[i]);
  puts("");
}

static void ask(const char *host, const char *port, const char *path) {
  uint8_t bytes[32];
  sockaddr found = {.length = sizeof bytes, .bytes = bytes};
  char name[NAMES_MAX];
  addrinfo result = {.address = &found, .name = name}, *results = &result;
  const addrinfo hints = {.family = INET4, .type = STREAM};
  uint32_t count = 0;
  int error = sock_getaddrinfo(host, strlen(host), "", 0, &hints, &results, 1, &count);
  if (error || count == 0) fail_with("lookup", error);
  int32_t fd;
  if ((error = sock_open(INET4, STREAM, &fd))) fail_with("open", error);
  /* A port comes first. */
  const address server = {bytes + 2, 4};
  if ((error = sock_connect(fd, &server, atoi(port)))) fail_with("connect", error);

  static char text[ANSWER_MAX];
  int length = snprintf(text, sizeof text, "GET %s HTTP/1.0\r\nHost: %s\r\nConnection: close\r\n\r\n", path, host);
  const __wasi_ciovec_t request = {(const uint8_t *)text, length};
  __wasi_size_t moved;
  if ((error = __wasi_sock_send(fd, &request, 1, 0, &moved))) fail_with("send", error);
  size_t received = 0;
  do {
    const __wasi_iovec_t room = {(uint8_t *)text + received, sizeof text - 1 - received};
    __wasi_roflags_t flags;
    if ((error = __wasi_sock_recv(fd, &room, 1, 0, &moved, &flags))) fail_with("receive", error);
    received += moved;
  } while (moved && received < sizeof text - 1);
  const char *body = strstr(text, "\r\n\r\n");
  if (!body) fail("ask", "no HTTP came");
  fputs(body + 4, stdout);
}

static void grow(const char *mib) {
  size_t bytes = (size_t)atoi(mib) * MIB;
  char *memory = malloc(bytes);
  if (!memory) fail("grow", "no memory");
  memset(memory, 1, bytes);
  /* Or a compiler sees that nobody looks. */
  __asm__ volatile("" : : "r"(memory) : "memory");
  puts("grown");
}

static void sleep_ms(const char *ms) {
  const long long all = atoll(ms);
  const struct timespec pause = {all / 1000, (all % 1000) * 1000000};
  nanosleep(&pause, NULL);
}

static void await_file(const char *path) {
  while (access(path, F_OK) != 0) sleep_ms("10");
}

int main(int argc, char **argv) {
  for (int at = 1; at < argc;) {
    const char *word = argv[at++];
    const int left = argc - at;
    char **given = argv + at;
    if (!strcmp(word, "say") && left >= 1) puts(given[0]), at += 1;
    else if (!strcmp(word, "complain") && left >= 1) fprintf(stderr, "%s\n", given[0]), at += 1;
    else if (!strcmp(word, "env") && left >= 1) puts(getenv(given[0]) ? getenv(given[0]) : ""), at += 1;
    else if (!strcmp(word, "copy")) copy(stdin);
    else if (!strcmp(word, "cat") && left >= 1) cat(given[0]), at += 1;
    else if (!strcmp(word, "write") && left >= 2) write_file(given[0], given[1]), at += 2;
    else if (!strcmp(word, "list") && left >= 1) list(given[0]), at += 1;
    else if (!strcmp(word, "ask") && left >= 3) ask(given[0], given[1], given[2]), at += 3;
    else if (!strcmp(word, "grow") && left >= 1) grow(given[0]), at += 1;
    else if (!strcmp(word, "sleep") && left >= 1) sleep_ms(given[0]), at += 1;
    else if (!strcmp(word, "await") && left >= 1) await_file(given[0]), at += 1;
    else if (!strcmp(word, "exit") && left >= 1) exit(atoi(given[0]));
    else if (!strcmp(word, "trap")) __builtin_trap();
    else if (!strcmp(word, "spin")) for (volatile int i = 0;;) i = i + 1;
    else fail("unknown", word);
    fflush(stdout);
  }
  return 0;
}
