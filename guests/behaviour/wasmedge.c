/* WasmEdge's sockets, by the imports alone: a listener of the guest's own on $PORT (8080), and an
   accept of two parameters, whose connection always starts out blocking. */
#include "dialect.h"

#include <stdlib.h>

#define IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(name)))

/* An address without its port: 4 bytes for IPv4, 16 for IPv6, in network order. */
typedef struct { const void *bytes; __wasi_size_t length; } address;

IMPORT("sock_open") int32_t sock_open(int32_t family, int32_t type, __wasi_fd_t *fd);
IMPORT("sock_setsockopt") int32_t sock_setsockopt(__wasi_fd_t fd, int32_t level, int32_t name, const void *value, __wasi_size_t length);
IMPORT("sock_bind") int32_t sock_bind(__wasi_fd_t fd, const address *address, int32_t port);
IMPORT("sock_listen") int32_t sock_listen(__wasi_fd_t fd, int32_t backlog);
IMPORT("sock_accept") int32_t sock_accept(__wasi_fd_t fd, __wasi_fd_t *accepted);

enum { INET4 = 1, STREAM = 2, SOL_SOCKET = 0, SO_REUSEADDR = 0, BACKLOG = 1024 };

__wasi_fd_t dialect_listen(void) {
  const char *given = getenv("PORT");
  static const uint8_t any[4];
  const address everywhere = {any, sizeof any};
  const int32_t yes = 1;
  __wasi_fd_t fd;
  __wasi_errno_t error;
  if ((error = sock_open(INET4, STREAM, &fd))) fatal("sock_open", error);
  if ((error = sock_setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes))) fatal("sock_setsockopt", error);
  if ((error = sock_bind(fd, &everywhere, given ? atoi(given) : 8080))) fatal("sock_bind", error);
  if ((error = sock_listen(fd, BACKLOG))) fatal("sock_listen", error);
  if ((error = __wasi_fd_fdstat_set_flags(fd, DIALECT_FDFLAGS))) fatal("fd_fdstat_set_flags", error);
  return fd;
}

__wasi_errno_t dialect_accept(__wasi_fd_t listener, __wasi_fd_t *fd) {
  __wasi_errno_t error = sock_accept(listener, fd);
  if (error || !DIALECT_FDFLAGS) return error;
  if ((error = __wasi_fd_fdstat_set_flags(*fd, DIALECT_FDFLAGS))) (void)__wasi_fd_close(*fd);
  return error;
}

__wasi_errno_t dialect_open(__wasi_fd_t *fd) { return sock_open(INET4, STREAM, fd); }
