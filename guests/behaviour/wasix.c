/* WASIX's sockets, by the imports alone: a listener of the guest's own on $PORT (8080), and an accept that tells
   the peer's address. What is preview1's is imported from there, as programs since 2024 do. */
#include "dialect.h"

#include <stdlib.h>

#define IMPORT(name) __attribute__((import_module("wasix_32v1"), import_name(name)))

/* Tag, nothing, port in little-endian, address in network order: 20 bytes, of which IPv4 has 8. */
typedef struct { uint8_t tag, nothing; uint16_t port; uint8_t address[16]; } addr_port;

IMPORT("sock_open") int32_t sock_open(int32_t family, int32_t type, int32_t protocol, __wasi_fd_t *fd);
IMPORT("sock_set_opt_flag") int32_t sock_set_opt_flag(__wasi_fd_t fd, int32_t option, int32_t flag);
IMPORT("sock_bind") int32_t sock_bind(__wasi_fd_t fd, const addr_port *address);
IMPORT("sock_listen") int32_t sock_listen(__wasi_fd_t fd, __wasi_size_t backlog);
IMPORT("sock_accept_v2") int32_t sock_accept_v2(__wasi_fd_t fd, int32_t flags, __wasi_fd_t *accepted, addr_port *peer);

enum { INET4 = 1, STREAM = 1, TCP = 6, REUSE_ADDR = 2, BACKLOG = 1024 };

__wasi_fd_t dialect_listen(void) {
  const char *given = getenv("PORT");
  const addr_port everywhere = {.tag = INET4, .port = (uint16_t)(given ? atoi(given) : 8080)};
  __wasi_fd_t fd;
  __wasi_errno_t error;
  if ((error = sock_open(INET4, STREAM, TCP, &fd))) fatal("sock_open", error);
  if ((error = sock_set_opt_flag(fd, REUSE_ADDR, 1))) fatal("sock_set_opt_flag", error);
  if ((error = sock_bind(fd, &everywhere))) fatal("sock_bind", error);
  if ((error = sock_listen(fd, BACKLOG))) fatal("sock_listen", error);
  if ((error = __wasi_fd_fdstat_set_flags(fd, DIALECT_FDFLAGS))) fatal("fd_fdstat_set_flags", error);
  return fd;
}

__wasi_errno_t dialect_accept(__wasi_fd_t listener, __wasi_fd_t *fd) {
  addr_port peer;
  return sock_accept_v2(listener, DIALECT_FDFLAGS, fd, &peer);
}

__wasi_errno_t dialect_open(__wasi_fd_t *fd) { return sock_open(INET4, STREAM, TCP, fd); }
