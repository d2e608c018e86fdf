/* The behaviour guest: a server whose clients tell it, in lines of text, what to do on their own
   connection, so that a test can bring about each thing a server may do to a runtime. It is compiled
   once for each dialect (see dialect.h); every line of the protocol is here.

     client                     server
     echo TEXT                  TEXT
     sink N, then N raw bytes   sunk N HASH            (FNV-1a, 32 bits, 8 hex digits)
     source N                   N bytes; byte i is (31 i + 7) mod 251, then nothing
     eof                        waiting; at the end of the client's stream: eof seen, and closes
     halfclose                  closing; ends its own stream, reads on until the client's ends, closes
     close                      closes at once
     count                      open CONNECTIONS accepted TOTAL
     discarded                  discarded BYTES        (read after an eof or a halfclose, of all connections)
     errno                      errors COUNT last ERRNO (any but AGAIN, of accept, recv, send and poll_oneoff)
     env NAME                   its value, or an empty line
     fdfill                     fdfill OPENED errno ERRNO (opens fds until one fails, then closes them)
     fdhold                     fdhold OPENED errno ERRNO (the same, and keeps them open)
     fdfree                     fdfree CLOSED
     exit CODE, trap, spin      ends, traps, loops for ever
     anything else              error unknown command

   Commands may be pipelined; answers come in their order. A client that ends its stream still gets
   the answers to what it sent before.

   The server sleeps in poll_oneoff and nowhere else, and reads from a connection only while it has
   no more than OUTPUT_MAX unsent bytes for it, so a client that does not read costs others nothing.
   Built with BLOCKING it serves one connection at a time instead, by calls that block; AGAIN is then
   an error like the others, for a descriptor that blocks may not answer it. */
#include "dialect.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
  LINE_MAX = 64 << 10,   /* a longer line ends the connection */
  CHUNK = 64 << 10,      /* read, or generated, at a time */
  OUTPUT_MAX = 256 << 10,
  TURN_MAX = 16,         /* rounds of answering and sending before others get their turn */
  ACCEPT_MAX = 64,       /* likewise, connections accepted */
  FDFILL_MAX = 64 << 10, /* in case nothing limits the fds */
};

/* How long the listener is left alone after accept has failed, say for want of fds: it stays
   readable, so polling it meanwhile would be a busy loop. */
static const uint64_t ACCEPT_PAUSE_NS = 50 * 1000 * 1000;

/* Bytes in order of arrival: what is not yet consumed is data[head..tail). */
typedef struct { uint8_t *data; size_t head, tail, capacity; } buffer;

typedef enum { COMMANDS, SINK, SOURCE, WAITING_FOR_END, HALF_CLOSED } phase;

typedef struct {
  __wasi_fd_t fd;
  phase phase;
  buffer in, out;
  uint64_t size, done; /* of the SINK or SOURCE under way */
  uint32_t hash;       /* of the SINK under way */
  bool dry;            /* wants input: all that came has been consumed, but for half a line */
  bool ended;          /* the client's stream is at its end */
  bool shut;           /* ours is */
  bool closed;         /* the fd is closed; the struct goes with the next reap */
} connection;

static struct { connection **items; size_t count, capacity; } connections;
static struct { uint64_t accepted, discarded, errors; unsigned last_error, open; } seen;
static struct { __wasi_fd_t fds[FDFILL_MAX]; unsigned count; } held;

/* ---- buffers ------------------------------------------------------------------------------- */

static void *grown(void *memory, size_t size) {
  memory = realloc(memory, size);
  if (!memory) fatal("memory", __WASI_ERRNO_NOMEM);
  return memory;
}

static size_t unread(const buffer *b) { return b->tail - b->head; }

static void consume(buffer *b, size_t length) {
  b->head += length;
  if (b->head < b->tail) return;
  /* An idle connection holds no memory: there may be thousands. */
  free(b->data);
  *b = (buffer){0};
}

/* Room for `length` more bytes at the tail; the caller moves the tail. */
static uint8_t *room(buffer *b, size_t length) {
  if (b->tail + length > b->capacity && b->head > 0) {
    memmove(b->data, b->data + b->head, unread(b));
    b->tail -= b->head;
    b->head = 0;
  }
  if (b->tail + length > b->capacity) {
    b->capacity = b->tail + length > 2 * b->capacity ? b->tail + length : 2 * b->capacity;
    b->data = grown(b->data, b->capacity);
  }
  return b->data + b->tail;
}

static void append(buffer *b, const void *bytes, size_t length) {
  if (length == 0) return;
  memcpy(room(b, length), bytes, length);
  b->tail += length;
}

__attribute__((format(printf, 2, 3))) static void reply(connection *c, const char *format, ...) {
  char text[128];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  append(&c->out, text, (size_t)length);
}

/* ---- connections: what the host is asked ------------------------------------------------------ */

static void failed(__wasi_errno_t error) {
  seen.errors++;
  seen.last_error = error;
}

static void open_connection(__wasi_fd_t fd) {
  if (connections.count == connections.capacity) {
    connections.capacity = connections.capacity ? 2 * connections.capacity : 64;
    connections.items = grown(connections.items, connections.capacity * sizeof *connections.items);
  }
  connection *c = grown(NULL, sizeof *c);
  *c = (connection){.fd = fd, .dry = true};
  connections.items[connections.count++] = c;
  seen.accepted++;
  seen.open++;
}

static void close_connection(connection *c) {
  (void)__wasi_fd_close(c->fd);
  c->closed = true;
  seen.open--;
}

/* Frees the structs of closed connections; no event of an earlier poll may be handled after it. */
static void reap(void) {
  size_t kept = 0;
  for (size_t i = 0; i < connections.count; i++) {
    connection *c = connections.items[i];
    if (!c->closed) {
      connections.items[kept++] = c;
      continue;
    }
    free(c->in.data);
    free(c->out.data);
    free(c);
  }
  connections.count = kept;
}

/* True for an AGAIN that is as it should be; any other error is counted, and ends the connection. */
static bool would_block(connection *c, __wasi_errno_t error) {
#ifndef BLOCKING
  if (error == __WASI_ERRNO_AGAIN) return true;
#endif
  failed(error);
  close_connection(c);
  return false;
}

static void receive(connection *c) {
  __wasi_iovec_t into = {room(&c->in, CHUNK), CHUNK};
  __wasi_size_t length = 0;
  __wasi_roflags_t flags;
  __wasi_errno_t error = __wasi_sock_recv(c->fd, &into, 1, 0, &length, &flags);
  if (error) {
    (void)would_block(c, error);
    return;
  }
  c->in.tail += length;
  c->ended = length == 0;
}

/* Sends what there is to send; true when nothing is left. */
static bool flush(connection *c) {
  while (unread(&c->out) > 0) {
    __wasi_ciovec_t from = {c->out.data + c->out.head, unread(&c->out)};
    __wasi_size_t length = 0;
    __wasi_errno_t error = __wasi_sock_send(c->fd, &from, 1, 0, &length);
    if (error) {
      (void)would_block(c, error);
      return false;
    }
    consume(&c->out, length);
  }
  return true;
}

/* ---- the protocol ----------------------------------------------------------------------------- */

/* Opens fds until one is refused. */
static __wasi_errno_t hold_fds(unsigned *opened) {
  __wasi_errno_t error = 0;
  for (*opened = 0; held.count < FDFILL_MAX && !(error = dialect_open(&held.fds[held.count])); held.count++) ++*opened;
  return error;
}

static void free_fds(unsigned count) {
  while (count-- > 0) (void)__wasi_fd_close(held.fds[--held.count]);
}

static void fill_fds(connection *c, const char *command) {
  unsigned opened;
  __wasi_errno_t error = hold_fds(&opened);
  if (!strcmp(command, "fdfill")) free_fds(opened);
  if (error == __WASI_ERRNO_NOTSUP) reply(c, "%s unsupported\n", command);
  else reply(c, "%s %u errno %u\n", command, opened, error);
}

static void start(connection *c, phase phase, const char *size) {
  c->phase = phase;
  c->size = strtoull(size, NULL, 10);
  c->done = 0;
  c->hash = 2166136261;
}

static void run(connection *c, char *line, size_t length) {
  char *argument = memchr(line, ' ', length);
  if (argument) *argument++ = 0;
  else argument = line + length; /* the NUL where the line's end was */
#define IS(command) (!strcmp(line, command))
  if (IS("echo")) {
    append(&c->out, argument, (size_t)(line + length - argument));
    append(&c->out, "\n", 1);
  } else if (IS("sink")) start(c, SINK, argument);
  else if (IS("source")) start(c, SOURCE, argument);
  else if (IS("eof")) {
    reply(c, "waiting\n");
    c->phase = WAITING_FOR_END;
  } else if (IS("halfclose")) {
    reply(c, "closing\n");
    c->phase = HALF_CLOSED;
  } else if (IS("close")) {
    if (flush(c) || !c->closed) close_connection(c); /* flush closes what it can't send on */
  } else if (IS("count")) reply(c, "open %u accepted %llu\n", seen.open, seen.accepted);
  else if (IS("discarded")) reply(c, "discarded %llu\n", seen.discarded);
  else if (IS("errno")) reply(c, "errors %llu last %u\n", seen.errors, seen.last_error);
  else if (IS("env")) {
    const char *value = getenv(argument);
    if (value) append(&c->out, value, strlen(value));
    append(&c->out, "\n", 1);
  } else if (IS("fdfill") || IS("fdhold")) fill_fds(c, line);
  else if (IS("fdfree")) {
    unsigned count = held.count;
    free_fds(count);
    reply(c, "fdfree %u\n", count);
  } else if (IS("exit")) __wasi_proc_exit((__wasi_exitcode_t)atoi(argument));
  else if (IS("trap")) __builtin_trap();
  else if (IS("spin")) for (;;) __asm__ volatile("");
  else reply(c, "error unknown command\n");
#undef IS
}

/* Runs the next line; false when it is not there yet. */
static bool next_line(connection *c) {
  char *line = (char *)c->in.data + c->in.head;
  char *end = unread(&c->in) ? memchr(line, '\n', unread(&c->in)) : NULL;
  if (!end) {
    if (unread(&c->in) < LINE_MAX) return false;
    reply(c, "error line too long\n");
    consume(&c->in, unread(&c->in));
    c->ended = true;
    return false;
  }
  size_t length = (size_t)(end - line);
  *end = 0;
  run(c, line, length);
  consume(&c->in, length + 1);
  return true;
}

/* Takes the bytes of a sink; false when more are to come. */
static bool sink(connection *c) {
  size_t length = unread(&c->in);
  if (length > c->size - c->done) length = (size_t)(c->size - c->done);
  for (size_t i = 0; i < length; i++) c->hash = (c->hash ^ c->in.data[c->in.head + i]) * 16777619;
  if (length > 0) consume(&c->in, length);
  c->done += length;
  if (c->done < c->size) return false;
  reply(c, "sunk %llu %08x\n", c->size, (unsigned)c->hash);
  c->phase = COMMANDS;
  return true;
}

/* Makes the next bytes of a source. */
static void source(connection *c) {
  size_t length = c->size - c->done < CHUNK ? (size_t)(c->size - c->done) : CHUNK;
  uint8_t *bytes = length > 0 ? room(&c->out, length) : NULL;
  unsigned value = (unsigned)((c->done % 251 * 31 + 7) % 251);
  for (size_t i = 0; i < length; i++) {
    bytes[i] = (uint8_t)value;
    value = (value + 31) % 251;
  }
  c->out.tail += length;
  c->done += length;
  if (c->done == c->size) c->phase = COMMANDS;
}

/* Turns input into output, until there is no more of it or enough of that. */
static void answer(connection *c) {
  c->dry = false;
  while (!c->closed && !c->dry && unread(&c->out) < OUTPUT_MAX) {
    switch (c->phase) {
      case COMMANDS: c->dry = !next_line(c); break;
      case SINK: c->dry = !sink(c); break;
      case SOURCE: source(c); break;
      case WAITING_FOR_END:
      case HALF_CLOSED:
        seen.discarded += unread(&c->in);
        if (c->in.data) consume(&c->in, unread(&c->in));
        c->dry = true;
    }
  }
}

/* All that can be done for a connection without waiting, within its turn. */
static void serve(connection *c) {
  for (int round = 0; round < TURN_MAX; round++) {
    answer(c);
    if (c->closed || !flush(c)) return;
    if (!c->dry) continue;
    if (c->phase == HALF_CLOSED && !c->shut) {
      (void)__wasi_sock_shutdown(c->fd, __WASI_SDFLAGS_WR);
      c->shut = true;
    }
    if (!c->ended) return;
    if (c->phase != WAITING_FOR_END) {
      close_connection(c);
      return;
    }
    reply(c, "eof seen\n");
    c->phase = COMMANDS; /* of which there will be none: the next round closes */
  }
}

/* ---- waiting: one connection at a time ------------------------------------------------------- */

#ifdef BLOCKING

static void pause_accept(void) {
  __wasi_subscription_t subscription = {.u.tag = __WASI_EVENTTYPE_CLOCK};
  subscription.u.u.clock.id = __WASI_CLOCKID_MONOTONIC;
  subscription.u.u.clock.timeout = ACCEPT_PAUSE_NS;
  __wasi_event_t event;
  __wasi_size_t count;
  (void)__wasi_poll_oneoff(&subscription, &event, 1, &count);
}

_Noreturn static void serve_all(__wasi_fd_t listener) {
  for (;;) {
    __wasi_fd_t fd;
    __wasi_errno_t error = dialect_accept(listener, &fd);
    if (error) {
      failed(error);
      pause_accept();
      continue;
    }
    open_connection(fd);
    connection *c = connections.items[0];
    while (!c->closed) {
      if (c->dry && !c->ended) receive(c);
      if (!c->closed) serve(c);
    }
    reap();
  }
}

#else

/* ---- waiting: for all connections at once ---------------------------------------------------- */

/* Userdata of what is no connection; that of a connection is its address. */
enum { LISTENER, PAUSE };

static struct { __wasi_subscription_t *in; __wasi_event_t *out; __wasi_size_t count, capacity; } poll;
static uint64_t accept_again_at; /* monotonic; 0 while the listener is polled */

static uint64_t now(void) {
  __wasi_timestamp_t time = 0;
  (void)__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 1, &time);
  return time;
}

static void accept_failed(__wasi_errno_t error) {
  failed(error);
  accept_again_at = now() + ACCEPT_PAUSE_NS;
}

static void accept_all(__wasi_fd_t listener) {
  for (int i = 0; i < ACCEPT_MAX; i++) {
    __wasi_fd_t fd;
    __wasi_errno_t error = dialect_accept(listener, &fd);
    if (error == __WASI_ERRNO_AGAIN) return;
    if (error) {
      accept_failed(error);
      return;
    }
    open_connection(fd);
  }
}

static void subscribe(uint64_t userdata, __wasi_eventtype_t type, __wasi_fd_t fd) {
  __wasi_subscription_t *s = &poll.in[poll.count++];
  *s = (__wasi_subscription_t){.userdata = userdata, .u.tag = type};
  s->u.u.fd_read.file_descriptor = fd; /* fd_write has it in the same place */
}

static void subscribe_all(__wasi_fd_t listener) {
  size_t most = 2 * connections.count + 1;
  if (poll.capacity < most) {
    poll.capacity = (__wasi_size_t)(2 * most);
    poll.in = grown(poll.in, poll.capacity * sizeof *poll.in);
    poll.out = grown(poll.out, poll.capacity * sizeof *poll.out);
  }
  poll.count = 0;
  for (size_t i = 0; i < connections.count; i++) {
    connection *c = connections.items[i];
    if (c->dry && !c->ended) subscribe((uintptr_t)c, __WASI_EVENTTYPE_FD_READ, c->fd);
    if (!c->dry || unread(&c->out) > 0) subscribe((uintptr_t)c, __WASI_EVENTTYPE_FD_WRITE, c->fd);
  }
  if (!accept_again_at) {
    subscribe(LISTENER, __WASI_EVENTTYPE_FD_READ, listener);
    return;
  }
  uint64_t time = now();
  subscribe(PAUSE, __WASI_EVENTTYPE_CLOCK, 0);
  poll.in[poll.count - 1].u.u.clock = (__wasi_subscription_clock_t){
      .id = __WASI_CLOCKID_MONOTONIC, .timeout = accept_again_at > time ? accept_again_at - time : 0};
}

static void handle(const __wasi_event_t *event) {
  connection *c = (connection *)(uintptr_t)event->userdata;
  if (c->closed) return; /* by the event before: reading and writing have one each */
  if (event->error) {
    failed(event->error);
    close_connection(c);
    return;
  }
  if (event->type == __WASI_EVENTTYPE_FD_READ) receive(c);
  if (!c->closed) serve(c);
}

_Noreturn static void serve_all(__wasi_fd_t listener) {
  for (;;) {
    reap();
    subscribe_all(listener);
    __wasi_size_t count = 0;
    __wasi_errno_t error = __wasi_poll_oneoff(poll.in, poll.out, poll.count, &count);
    if (error) fatal("poll_oneoff", error);
    for (__wasi_size_t i = 0; i < count; i++) {
      const __wasi_event_t *event = &poll.out[i];
      if (event->userdata == PAUSE) accept_again_at = 0;
      else if (event->userdata != LISTENER) handle(event);
      else if (event->error) accept_failed(event->error);
      else accept_all(listener);
    }
  }
}

#endif

/* ---- start ------------------------------------------------------------------------------------ */

_Noreturn void fatal(const char *what, __wasi_errno_t error) {
  fprintf(stderr, "%s: errno %u\n", what, error);
  exit(1);
}

int main(void) {
  __wasi_fd_t listener = dialect_listen();
  printf("listening on fd %u\n", listener);
  fflush(stdout);
  serve_all(listener);
}
