/* What differs between the dialects: where a listener comes from, and the shape of accept. All that
   a connection needs afterwards (sock_recv, sock_send, sock_shutdown, fd_close, poll_oneoff) is the
   same in all of them, so it is in behaviour.c. Each dialect has one file that implements this.

   A build with SOCKETS defined is a component, where none of that exists: sockets.h stands for it.
   A build with BLOCKING defined has a listener and connections that block. Otherwise neither does. */
#ifndef DIALECT_H
#define DIALECT_H

#ifdef SOCKETS
#include "sockets.h"
#else
#include <wasi/api.h>
#endif

#ifdef BLOCKING
#define DIALECT_FDFLAGS 0
#else
#define DIALECT_FDFLAGS __WASI_FDFLAGS_NONBLOCK
#endif

/* The listener. Ends the program when there is none to be had. */
__wasi_fd_t dialect_listen(void);

/* Accepts one connection. */
__wasi_errno_t dialect_accept(__wasi_fd_t listener, __wasi_fd_t *fd);

/* Opens any fd that fd_close closes; NOTSUP in a dialect in which a guest can open none. */
__wasi_errno_t dialect_open(__wasi_fd_t *fd);

/* Prints why the server can't start, and exits with 1. Offered by behaviour.c. */
_Noreturn void fatal(const char *what, __wasi_errno_t error);

#endif
