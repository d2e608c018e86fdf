// A CGI program that does what the path says: what CGI has, and what a program may do wrong.

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static const char *variable(const char *name) {
  const char *value = getenv(name);
  return value ? value : "";
}

// Writes at once: nothing waits in a buffer of libc.
static void put(const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t written = write(1, bytes, length);
    if (written <= 0) {
      fprintf(stderr, "stdout fails\n");
      exit(70);
    }
    bytes += written;
    length -= (size_t)written;
  }
}

static void say(const char *text) { put(text, strlen(text)); }

static void head(void) { say("Content-Type: text/plain\n\n"); }

static void pause_ms(long ms) {
  struct timespec time = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000};
  nanosleep(&time, NULL);
}

static int digit(char c) { return c <= '9' ? c - '0' : (c | 32) - 'a' + 10; }

// Writes the query, its escapes taken off: whatever a test wants to be written.
static void put_query(const char *query) {
  for (; *query; query++) {
    char byte = *query;
    if (byte == '%' && query[1] && query[2]) {
      byte = (char)(digit(query[1]) * 16 + digit(query[2]));
      query += 2;
    }
    put(&byte, 1);
  }
}

static void fill(long bytes) {
  static char block[4096];
  memset(block, 'x', sizeof block);
  for (; bytes > 0; bytes -= (long)sizeof block) put(block, (size_t)(bytes < (long)sizeof block ? bytes : (long)sizeof block));
}

static void environment(int argc, char **argv) {
  head();
  for (int i = 0; i < argc; i++) printf("argv[%d]=%s\n", i, argv[i]);
  for (char **entry = environ; *entry; entry++) printf("%s\n", *entry);
}

static void echo(void) {
  char buffer[4096];
  ssize_t length;
  head();
  while ((length = read(0, buffer, sizeof buffer)) > 0) put(buffer, (size_t)length);
  if (length < 0) exit(71);
}

static void count_body(void) {
  char buffer[4096];
  ssize_t length;
  long total = 0;
  while ((length = read(0, buffer, sizeof buffer)) > 0) total += length;
  head();
  printf("%ld bytes, CONTENT_LENGTH=%s\n", total, getenv("CONTENT_LENGTH") ? getenv("CONTENT_LENGTH") : "-");
}

static void print_file(const char *name) {
  char buffer[4096];
  int file = open(name, O_RDONLY);
  head();
  if (file < 0) say("no such file\n");
  for (ssize_t length; file >= 0 && (length = read(file, buffer, sizeof buffer)) > 0;) put(buffer, (size_t)length);
}

// A function for `entrypoint` of WAGI.
__attribute__((export_name("greet"))) void greet(void) {
  head();
  say("greetings\n");
}

int main(int argc, char **argv) {
  static int requests;
  const char *path = variable("PATH_INFO"), *query = variable("QUERY_STRING");
  long number = atol(query);
  requests++;
  if (!strcmp(path, "/env")) environment(argc, argv);
  else if (!strcmp(path, "/echo")) echo();
  else if (!strcmp(path, "/body")) count_body();
  else if (!strcmp(path, "/raw")) put_query(query);
  else if (!strcmp(path, "/raw-then-exit")) { put_query(query); return 3; }
  else if (!strcmp(path, "/file")) print_file(query);
  else if (!strcmp(path, "/requests")) { head(); printf("%d\n", requests); }
  else if (!strcmp(path, "/exit")) return (int)number;
  else if (!strcmp(path, "/trap")) __builtin_trap();
  else if (!strcmp(path, "/nothing")) return 0;
  else if (!strcmp(path, "/stderr")) { head(); fprintf(stderr, "a line for the log\nno newline"); say("ok\n"); }
  else if (!strcmp(path, "/sleep")) { pause_ms(number); head(); say("slept\n"); }
  else if (!strcmp(path, "/loop")) for (volatile long i = 0;; i++) {}
  else if (!strcmp(path, "/fill")) { head(); fill(number); }
  else if (!strcmp(path, "/large-head")) { say("X-Large: "); fill(number); say("\n\n"); }
  else if (!strcmp(path, "/late-exit")) { head(); say("a part\n"); pause_ms(number); return 3; }
  else if (!strcmp(path, "/late-trap")) { head(); say("a part\n"); pause_ms(number); __builtin_trap(); }
  else if (!strcmp(path, "/drip")) {
    head();
    for (int i = 1; i <= 3; i++) { printf("drip %d\n", i); fflush(stdout); pause_ms(number); }
  }
  else { say("Status: 404 Not Found\r\nContent-Type: text/plain\r\n\r\n"); printf("no test is called %s\n", path); }
  fflush(stdout);
  return 0;
}
