/* What the server asks of preview 1, for a host that has none: its names and numbers, on the sockets and the
   poll of wasi-libc, whose numbers of errors are the same. sockets.c has the functions. */
#ifndef SOCKETS_H
#define SOCKETS_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

typedef int __wasi_fd_t;
typedef size_t __wasi_size_t;
typedef uint16_t __wasi_errno_t, __wasi_riflags_t, __wasi_roflags_t, __wasi_siflags_t;
typedef uint8_t __wasi_eventtype_t, __wasi_sdflags_t;
typedef uint64_t __wasi_timestamp_t;
typedef uint32_t __wasi_clockid_t, __wasi_exitcode_t;

enum { __WASI_ERRNO_AGAIN = EAGAIN, __WASI_ERRNO_NOMEM = ENOMEM, __WASI_ERRNO_NOTSUP = ENOTSUP };
enum { __WASI_FDFLAGS_NONBLOCK = 1 };
enum { __WASI_SDFLAGS_WR = 2 };
enum { __WASI_CLOCKID_MONOTONIC = 1 };
enum { __WASI_EVENTTYPE_CLOCK, __WASI_EVENTTYPE_FD_READ, __WASI_EVENTTYPE_FD_WRITE };

typedef struct { uint8_t *buf; __wasi_size_t buf_len; } __wasi_iovec_t;
typedef struct { const uint8_t *buf; __wasi_size_t buf_len; } __wasi_ciovec_t;

typedef struct { __wasi_clockid_t id; __wasi_timestamp_t timeout; } __wasi_subscription_clock_t;
typedef struct { __wasi_fd_t file_descriptor; } __wasi_subscription_fd_t;
typedef struct {
  uint64_t userdata;
  struct {
    __wasi_eventtype_t tag;
    union { __wasi_subscription_clock_t clock; __wasi_subscription_fd_t fd_read, fd_write; } u;
  } u;
} __wasi_subscription_t;
typedef struct { uint64_t userdata; __wasi_errno_t error; __wasi_eventtype_t type; } __wasi_event_t;

/* Of `from` and `into` there is one. */
__wasi_errno_t __wasi_sock_recv(__wasi_fd_t fd, const __wasi_iovec_t *into, size_t count, __wasi_riflags_t flags,
                                __wasi_size_t *length, __wasi_roflags_t *out_flags);
__wasi_errno_t __wasi_sock_send(__wasi_fd_t fd, const __wasi_ciovec_t *from, size_t count, __wasi_siflags_t flags,
                                __wasi_size_t *length);
__wasi_errno_t __wasi_sock_shutdown(__wasi_fd_t fd, __wasi_sdflags_t how);
__wasi_errno_t __wasi_fd_close(__wasi_fd_t fd);
__wasi_errno_t __wasi_clock_time_get(__wasi_clockid_t clock, __wasi_timestamp_t precision, __wasi_timestamp_t *time);
/* Of clocks there is one at most, and its timeout is from now. */
__wasi_errno_t __wasi_poll_oneoff(const __wasi_subscription_t *in, __wasi_event_t *out, __wasi_size_t most,
                                  __wasi_size_t *count);
_Noreturn void __wasi_proc_exit(__wasi_exitcode_t code);

#endif
