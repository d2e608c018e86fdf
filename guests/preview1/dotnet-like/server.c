/* What the sockets of a .NET server look like from the host: the native part of the WASI SDK's
   ASP.NET Core server, redone in C from what it does. HTTP itself is the least that can stand in for
   Kestrel. What a runtime has to get right for it:

   - the listener is preopened, as fd 3, or 4 when $DEBUGGER_FD says that a debugger has 3;
   - it never polls a socket: every 10 ms it accepts once and reads each connection once;
   - it never makes the listener non-blocking, yet accept must not block, and must answer AGAIN while
     nobody is there: on any other error the server says "Fatal" and exits with 1;
   - connections are read and written by fd_read and fd_write, and a write that would block is tried
     again in a loop, without a pause. */
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>

enum { TICK_US = 10 * 1000, READ_MAX = 1 << 20 };

/* Received and not yet answered: a NUL-terminated text, as far as the head of a request goes. */
typedef struct connection {
  int fd;
  char *text;
  size_t length;
  struct connection *next;
} connection;

static connection *connections;

static void send_all(int fd, const char *bytes, size_t length) {
  while (length > 0) {
    ssize_t sent = write(fd, bytes, length);
    if (sent < 0 && errno == EAGAIN) continue;
    if (sent < 0) {
      printf("Error sending response data. errno: %d\n", errno);
      return;
    }
    bytes += sent;
    length -= (size_t)sent;
  }
}

static void respond(int fd, const char *status, const char *body, size_t length) {
  char head[128];
  int head_length = snprintf(head, sizeof head,
      "HTTP/1.1 %s\r\nServer: Kestrel-like\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\n\r\n",
      status, length);
  send_all(fd, head, (size_t)head_length);
  send_all(fd, body, length);
}

static void answer(int fd, const char *path, const char *body, size_t length) {
  if (!strcmp(path, "/")) respond(fd, "200 OK", "Hello World!", 12);
  else if (!strcmp(path, "/echo")) respond(fd, "200 OK", body, length);
  else if (!strncmp(path, "/big/", 5)) {
    size_t size = strtoul(path + 5, NULL, 10);
    char *page = malloc(size + 1);
    if (!page) {
      respond(fd, "500 Internal Server Error", "", 0);
      return;
    }
    memset(page, 'x', size);
    respond(fd, "200 OK", page, size);
    free(page);
  } else respond(fd, "404 Not Found", "", 0);
}

/* The Content-Length of a head that ends at `end`. */
static size_t body_length(const char *head, const char *end) {
  for (const char *line = head; line < end; line = strstr(line, "\r\n") + 2)
    if (!strncasecmp(line, "content-length:", 15)) return strtoul(line + 15, NULL, 10);
  return 0;
}

/* Answers the first request when all of it is there; true if there may be another. */
static bool answer_first(connection *c) {
  char *end = c->text ? strstr(c->text, "\r\n\r\n") : NULL;
  if (!end) return false;
  char *body = end + 4;
  size_t length = body_length(c->text, end), total = (size_t)(body - c->text) + length;
  if (c->length < total) return false;
  char *path = strchr(c->text, ' ');
  *end = 0; /* so that the path is looked for in this head only */
  path = path ? path + 1 : end;
  path[strcspn(path, " ?\r\n")] = 0;
  answer(c->fd, path, body, length);
  c->length -= total;
  memmove(c->text, c->text + total, c->length + 1);
  return true;
}

static void received(connection *c, const char *bytes, size_t length) {
  char *text = realloc(c->text, c->length + length + 1);
  if (!text) abort();
  memcpy(text + c->length, bytes, length);
  c->text = text;
  c->length += length;
  text[c->length] = 0;
  while (answer_first(c));
}

static void accept_one(int listener) {
  int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
  if (fd >= 0) {
    connection *c = calloc(1, sizeof *c);
    if (!c) abort();
    *c = (connection){.fd = fd, .next = connections};
    connections = c;
  } else if (errno != EAGAIN) {
    printf("Fatal: TCP accept failed with errno %d. Has the runtime preopened a listener?\n", errno);
    exit(1);
  }
}

static void read_each(void) {
  static char bytes[READ_MAX];
  for (connection **link = &connections, *c; (c = *link);) {
    ssize_t length = read(c->fd, bytes, sizeof bytes);
    if (length > 0) received(c, bytes, (size_t)length);
    if (length > 0 || (length < 0 && errno == EAGAIN)) {
      link = &c->next;
      continue;
    }
    if (length < 0) printf("Connection %d failed with error %d; closing connection.\n", c->fd, errno);
    *link = c->next;
    close(c->fd);
    free(c->text);
    free(c);
  }
}

int main(void) {
  int listener = getenv("DEBUGGER_FD") ? 4 : 3;
  const char *urls = getenv("ASPNETCORE_URLS");
  printf("Now listening on: %s\n", urls ? urls : "http://localhost:5000");
  fflush(stdout);
  for (;;) {
    usleep(TICK_US);
    accept_one(listener);
    read_each();
  }
}
