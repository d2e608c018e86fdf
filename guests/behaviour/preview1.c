/* Preview 1 with a preopened listener: fd 3, or $LISTEN_FD. */
#include "dialect.h"

#include <stdlib.h>

__wasi_fd_t dialect_listen(void) {
  const char *given = getenv("LISTEN_FD");
  __wasi_fd_t fd = given ? (__wasi_fd_t)atoi(given) : 3;
  __wasi_fdstat_t stat;
  __wasi_errno_t error = __wasi_fd_fdstat_get(fd, &stat);
  if (error) fatal("no preopened listener", error);
  error = __wasi_fd_fdstat_set_flags(fd, DIALECT_FDFLAGS);
  if (error) fatal("fd_fdstat_set_flags", error);
  return fd;
}

__wasi_errno_t dialect_accept(__wasi_fd_t listener, __wasi_fd_t *fd) {
  return __wasi_sock_accept(listener, DIALECT_FDFLAGS, fd);
}

__wasi_errno_t dialect_open(__wasi_fd_t *fd) {
  (void)fd;
  return __WASI_ERRNO_NOTSUP;
}
