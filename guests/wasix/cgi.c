// A CGI program of WASIX: it does what the path says, with a memory that threads share.

#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

extern char **environ;

static int found;

static void *find(void *number) {
  for (int i = 1; i <= *(int *)number; i++) found += i;
  return NULL;
}

static void *wait_for_ever(void *nothing) {
  for (;;) sleep(3600);
  return nothing;
}

static void *fail(void *nothing) {
  __builtin_trap();
  return nothing;
}

static void head(void) { printf("Content-Type: text/plain\nX-Guest: cgi\n\n"); }

// Threads of a program that is run for one request: they end with it.
static void with_thread(void *(*start)(void *), int joins) {
  pthread_t thread;
  int number = 100, error = pthread_create(&thread, NULL, start, &number);
  if (!error && joins) error = pthread_join(thread, NULL);
  head();
  printf("thread: error=%d found=%d\n", error, found);
}

static void tell(int argc, char **argv) {
  head();
  for (int i = 0; i < argc; i++) printf("argv[%d]=%s\n", i, argv[i]);
  for (char **entry = environ; *entry; entry++) printf("env %s\n", *entry);
}

static void sum_body(void) {
  char buffer[4096];
  size_t length, total = 0;
  unsigned sum = 0;
  while ((length = fread(buffer, 1, sizeof buffer, stdin)) > 0) {
    for (size_t i = 0; i < length; i++) sum = sum * 31 + (unsigned char)buffer[i];
    total += length;
  }
  head();
  printf("body=%zu hash=%08x\n", total, sum);
}

static void grow(long bytes) {
  char *room = malloc((size_t)bytes);
  if (room) memset(room, 1, (size_t)bytes);
  head();
  printf("room=%d\n", room != NULL);
}

int main(int argc, char **argv) {
  static int requests;
  const char *path = getenv("PATH_INFO"), *query = getenv("QUERY_STRING");
  requests++;
  if (!path || !query) return 64;
  if (!strcmp(path, "/requests")) { head(); printf("%d\n", requests); }
  else if (!strcmp(path, "/body")) sum_body();
  else if (!strcmp(path, "/thread")) with_thread(find, 1);
  else if (!strcmp(path, "/left-behind")) with_thread(wait_for_ever, 0);
  else if (!strcmp(path, "/thread-trap")) with_thread(fail, 1);
  else if (!strcmp(path, "/grow")) grow(atol(query));
  else if (!strcmp(path, "/exit")) return atoi(query);
  else if (!strcmp(path, "/trap")) __builtin_trap();
  else if (!strcmp(path, "/wait")) wait_for_ever(NULL);
  else if (!strcmp(path, "/loop")) for (volatile long i = 0;; i++) {}
  else if (!strcmp(path, "/stderr")) { fprintf(stderr, "a line for the log\n"); head(); }
  else if (!strcmp(path, "/missing")) printf("Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\nnothing here\n");
  else tell(argc, argv);
  return 0;
}
