/* wasi:sockets 0.2, as a C program uses it: a listener of the guest's own on $PORT (8080). */
#include "dialect.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { BACKLOG = 1024, MS_IN_NS = 1000 * 1000 };

/* ---- the dialect ------------------------------------------------------------------------------ */

static int make_nonblocking(int fd) { return DIALECT_FDFLAGS ? fcntl(fd, F_SETFL, O_NONBLOCK) : 0; }

__wasi_fd_t dialect_listen(void) {
  const char *given = getenv("PORT");
  const struct sockaddr_in everywhere = {.sin_family = AF_INET, .sin_port = htons(given ? atoi(given) : 8080)};
  int fd = socket(AF_INET, SOCK_STREAM, 0);
  if (fd < 0) fatal("socket", errno);
  if (bind(fd, (const struct sockaddr *)&everywhere, sizeof everywhere)) fatal("bind", errno);
  if (listen(fd, BACKLOG)) fatal("listen", errno);
  if (make_nonblocking(fd)) fatal("fcntl", errno);
  return fd;
}

__wasi_errno_t dialect_accept(__wasi_fd_t listener, __wasi_fd_t *fd) {
  *fd = accept(listener, NULL, NULL);
  if (*fd < 0) return errno;
  if (!make_nonblocking(*fd)) return 0;
  __wasi_errno_t error = errno;
  (void)close(*fd);
  return error;
}

__wasi_errno_t dialect_open(__wasi_fd_t *fd) { return (*fd = socket(AF_INET, SOCK_STREAM, 0)) < 0 ? errno : 0; }

/* ---- what preview 1 has ----------------------------------------------------------------------- */

__wasi_errno_t __wasi_sock_recv(__wasi_fd_t fd, const __wasi_iovec_t *into, size_t count, __wasi_riflags_t flags,
                                __wasi_size_t *length, __wasi_roflags_t *out_flags) {
  (void)count, (void)flags;
  ssize_t got = recv(fd, into->buf, into->buf_len, 0);
  if (got < 0) return errno;
  *length = (size_t)got;
  *out_flags = 0;
  return 0;
}

__wasi_errno_t __wasi_sock_send(__wasi_fd_t fd, const __wasi_ciovec_t *from, size_t count, __wasi_siflags_t flags,
                                __wasi_size_t *length) {
  (void)count, (void)flags;
  ssize_t sent = send(fd, from->buf, from->buf_len, 0);
  if (sent < 0) return errno;
  *length = (size_t)sent;
  return 0;
}

__wasi_errno_t __wasi_sock_shutdown(__wasi_fd_t fd, __wasi_sdflags_t how) {
  (void)how; /* it is for writing */
  return shutdown(fd, SHUT_WR) ? errno : 0;
}

__wasi_errno_t __wasi_fd_close(__wasi_fd_t fd) { return close(fd) ? errno : 0; }

__wasi_errno_t __wasi_clock_time_get(__wasi_clockid_t clock, __wasi_timestamp_t precision, __wasi_timestamp_t *time) {
  (void)clock, (void)precision;
  struct timespec now;
  if (clock_gettime(CLOCK_MONOTONIC, &now)) return errno;
  *time = (uint64_t)now.tv_sec * 1000 * MS_IN_NS + (uint64_t)now.tv_nsec;
  return 0;
}

__wasi_errno_t __wasi_poll_oneoff(const __wasi_subscription_t *in, __wasi_event_t *out, __wasi_size_t most,
                                  __wasi_size_t *count) {
  static struct pollfd *fds;
  static size_t capacity;
  if (capacity < most) {
    fds = realloc(fds, (capacity = 2 * most) * sizeof *fds);
    if (!fds) return ENOMEM;
  }
  const __wasi_subscription_t *clock = NULL;
  int timeout_ms = -1;
  for (size_t i = 0; i < most; i++) {
    /* One that is none stands for the clock: it is passed over. */
    fds[i] = (struct pollfd){.fd = -1};
    if (in[i].u.tag == __WASI_EVENTTYPE_CLOCK) {
      clock = &in[i];
      timeout_ms = (int)((clock->u.u.clock.timeout + MS_IN_NS - 1) / MS_IN_NS);
    } else {
      fds[i].fd = in[i].u.u.fd_read.file_descriptor;
      fds[i].events = in[i].u.tag == __WASI_EVENTTYPE_FD_READ ? POLLIN : POLLOUT;
    }
  }
  *count = 0;
  int ready = poll(fds, most, timeout_ms);
  if (ready < 0) return errno;
  if (ready == 0 && clock) out[(*count)++] = (__wasi_event_t){.userdata = clock->userdata, .type = clock->u.tag};
  for (size_t i = 0; i < most; i++) {
    if (fds[i].fd < 0 || !fds[i].revents) continue;
    /* An error of the connection is for the next call on it to tell. */
    __wasi_errno_t error = fds[i].revents & POLLNVAL ? EBADF : 0;
    out[(*count)++] = (__wasi_event_t){.userdata = in[i].userdata, .error = error, .type = in[i].u.tag};
  }
  return 0;
}

void __wasi_proc_exit(__wasi_exitcode_t code) { _Exit((int)code); }
