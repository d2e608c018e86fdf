/* Asks a preview 1 host what a server with a preopened listener depends on, and prints its answers, one
   line each, `QUESTION: ANSWER`: nothing to pass or fail. conformance/run.py plays the client, and compares
   the answers of two hosts. Without an argument it prints the names of its scenes; with one it plays that:

     RUNTIME run --tcplisten 127.0.0.1:0 --dir DIR::/data probe.wasm SCENE

   The listener is descriptor 3, the directory 4. A line `> ACTION` asks the client for something (the
   actions are in conformance/run.py); a line on standard input says that it is done. What may hang or trap
   some host is a scene of its own. Nothing here depends on time, but for timers that are the only thing to
   come, and for those that never may. */
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wasi/api.h>

typedef __wasi_fd_t fd_t;
typedef __wasi_errno_t errno_t;

enum { STDIN, STDOUT, LISTENER = 3, DIRECTORY = 4, NEVER_OPEN = 4242 };
enum { NONBLOCK = __WASI_FDFLAGS_NONBLOCK };
enum { PEEK = __WASI_RIFLAGS_RECV_PEEK, WAITALL = __WASI_RIFLAGS_RECV_WAITALL };
enum { RECEIVING = __WASI_SDFLAGS_RD, SENDING = __WASI_SDFLAGS_WR };

/* ---- answers ------------------------------------------------------------------------------------ */

static const char *name_of(errno_t error) {
  static const char *const names[] = {
      "ok",       "2big",     "acces",      "addrinuse",      "addrnotavail", "afnosupport", "again",    "already",
      "badf",     "badmsg",   "busy",       "canceled",       "child",        "connaborted", "connrefused",
      "connreset", "deadlk",  "destaddrreq", "dom",           "dquot",        "exist",       "fault",    "fbig",
      "hostunreach", "idrm",  "ilseq",      "inprogress",     "intr",         "inval",       "io",       "isconn",
      "isdir",    "loop",     "mfile",      "mlink",          "msgsize",      "multihop",    "nametoolong",
      "netdown",  "netreset", "netunreach", "nfile",          "nobufs",       "nodev",       "noent",    "noexec",
      "nolck",    "nolink",   "nomem",      "nomsg",          "noprotoopt",   "nospc",       "nosys",    "notconn",
      "notdir",   "notempty", "notrecoverable", "notsock",    "notsup",       "notty",       "nxio",     "overflow",
      "ownerdead", "perm",    "pipe",       "proto",          "protonosupport", "prototype", "range",    "rofs",
      "spipe",    "srch",     "stale",      "timedout",       "txtbsy",       "xdev",        "notcapable"};
  return error < sizeof names / sizeof *names ? names[error] : "no errno";
}

__attribute__((format(printf, 2, 3))) static void answer(const char *question, const char *format, ...) {
  va_list values;
  va_start(values, format);
  printf("%s: ", question);
  vprintf(format, values);
  printf("\n");
  va_end(values);
}

static void say(const char *question, errno_t error) { answer(question, "%s", name_of(error)); }

static void say_of(const char *call, const char *kind, errno_t error) {
  printf("%s of %s: %s\n", call, kind, name_of(error));
}

/* ---- the client --------------------------------------------------------------------------------- */

/* Waits until the client has done what it was asked for longest ago. */
static void done(void) {
  char byte = 0;
  __wasi_iovec_t into = {(uint8_t *)&byte, 1};
  do {
    __wasi_size_t length = 0;
    if (__wasi_fd_read(STDIN, &into, 1, &length) || length != 1) exit(3); /* the client is gone */
  } while (byte != '\n');
}

/* Asks for something that is done once this guest waits, and not waited for here. */
static void soon(const char *action) { printf("> %s\n", action); }

static void act(const char *action) {
  soon(action);
  done();
}

/* ---- calls -------------------------------------------------------------------------------------- */

static fd_t accepted(__wasi_fdflags_t flags) {
  fd_t fd = NEVER_OPEN;
  errno_t error = __wasi_sock_accept(LISTENER, flags, &fd);
  if (error) answer("a connection that a scene needs", "%s", name_of(error));
  if (error) exit(4);
  return fd;
}

/* The connection of a client, which sees it as `name`. */
static fd_t connected(const char *name, __wasi_fdflags_t flags) {
  char action[32];
  snprintf(action, sizeof action, "connect %s", name);
  act(action);
  return accepted(flags);
}

enum { READ = 0x100 }; /* in place of flags: by fd_read */

/* Receives into buffers of these sizes; shows them, with a guard byte behind each. */
static void receive(const char *question, fd_t fd, unsigned flags, __wasi_size_t count, const size_t *sizes) {
  static uint8_t bytes[4][64];
  __wasi_iovec_t into[4];
  __wasi_size_t length = 0;
  __wasi_roflags_t truncated = 0;
  memset(bytes, '.', sizeof bytes);
  for (__wasi_size_t i = 0; i < count; i++) into[i] = (__wasi_iovec_t){bytes[i], sizes[i]};
  errno_t error = flags == READ ? __wasi_fd_read(fd, into, count, &length)
                                : __wasi_sock_recv(fd, into, count, (__wasi_riflags_t)flags, &length, &truncated);
  printf("%s: %s", question, name_of(error));
  if (!error) printf(" %zu", length);
  for (__wasi_size_t i = 0; !error && i < count; i++) printf(" '%.*s'", (int)sizes[i] + 1, (char *)bytes[i]);
  printf("%s\n", truncated ? " truncated" : "");
}

#define RECEIVE(question, fd, flags, ...) \
  receive(question, fd, flags, sizeof((size_t[]){__VA_ARGS__}) / sizeof(size_t), (size_t[]){__VA_ARGS__})

enum { WRITE = 0x100 }; /* in place of flags: by fd_write */

static void send(const char *question, fd_t fd, unsigned flags, __wasi_size_t count, const char *const *texts) {
  __wasi_ciovec_t from[4];
  __wasi_size_t length = 0;
  for (__wasi_size_t i = 0; i < count; i++) from[i] = (__wasi_ciovec_t){(const uint8_t *)texts[i], strlen(texts[i])};
  errno_t error = flags == WRITE ? __wasi_fd_write(fd, from, count, &length)
                                 : __wasi_sock_send(fd, from, count, (__wasi_siflags_t)flags, &length);
  if (error) say(question, error);
  else answer(question, "ok %zu", length);
}

#define SEND(question, fd, flags, ...) \
  send(question, fd, flags, sizeof((char *[]){__VA_ARGS__}) / sizeof(char *), (const char *[]){__VA_ARGS__})

static __wasi_subscription_t on_fd(uint64_t userdata, __wasi_eventtype_t type, fd_t fd) {
  __wasi_subscription_t s = {.userdata = userdata, .u.tag = type};
  s.u.u.fd_read.file_descriptor = fd; /* fd_write has it in the same place */
  return s;
}

static __wasi_subscription_t reading(uint64_t userdata, fd_t fd) {
  return on_fd(userdata, __WASI_EVENTTYPE_FD_READ, fd);
}

static __wasi_subscription_t writing(uint64_t userdata, fd_t fd) {
  return on_fd(userdata, __WASI_EVENTTYPE_FD_WRITE, fd);
}

static __wasi_subscription_t timer(uint64_t ms) {
  __wasi_subscription_t s = {.userdata = 9, .u.tag = __WASI_EVENTTYPE_CLOCK};
  s.u.u.clock = (__wasi_subscription_clock_t){.id = __WASI_CLOCKID_MONOTONIC, .timeout = ms * 1000000};
  return s;
}

#define SHORTLY timer(20)  /* the only thing to come */
#define MUCH_LATER timer(20000)  /* never comes first */

/* Shows the events; with `bytes` how many of them too. */
static void poll(const char *question, bool bytes, __wasi_size_t count, const __wasi_subscription_t *subscriptions) {
  static const char *const types[] = {"clock", "read", "write"};
  __wasi_event_t events[8] = {0};
  __wasi_size_t got = 0;
  errno_t error = __wasi_poll_oneoff(subscriptions, events, count, &got);
  printf("poll_oneoff, %s: %s", question, error ? name_of(error) : got ? "" : "no event");
  for (__wasi_size_t i = 0; !error && i < got; i++) {
    printf("%s%llu %s", i ? ", " : "", events[i].userdata, types[events[i].type % 3]);
    if (events[i].error) printf(" %s", name_of(events[i].error));
    if (bytes) printf(" %llu", events[i].fd_readwrite.nbytes);
    if (events[i].fd_readwrite.flags) printf(" flags %u", events[i].fd_readwrite.flags);
  }
  printf("\n");
}

#define SUBSCRIPTIONS(...) \
  sizeof((__wasi_subscription_t[]){__VA_ARGS__}) / sizeof(__wasi_subscription_t), (__wasi_subscription_t[]){__VA_ARGS__}
#define POLL(question, ...) poll(question, false, SUBSCRIPTIONS(__VA_ARGS__))
#define POLL_BYTES(question, ...) poll(question, true, SUBSCRIPTIONS(__VA_ARGS__))

static void show_flags(const char *question, fd_t fd) {
  __wasi_fdstat_t stat = {0};
  errno_t error = __wasi_fd_fdstat_get(fd, &stat);
  if (error) say(question, error);
  else answer(question, "flags %u", stat.fs_flags);
}

/* ---- scenes: descriptors ------------------------------------------------------------------------ */

static void scene_preopens(void) {
  static uint8_t *variables[64], bytes[4096];
  __wasi_size_t count = 0, length = 0;
  say("environ_sizes_get", __wasi_environ_sizes_get(&count, &length));
  say("environ_get", __wasi_environ_get(variables, bytes));
  answer("variables of the environment", "%zu", count);
  for (__wasi_size_t i = 0; i < count; i++) answer("a variable", "%s", (const char *)variables[i]);
  for (fd_t fd = LISTENER; fd < 8; fd++) {
    __wasi_prestat_t prestat = {.tag = 99};
    char question[32], name[64] = "";
    errno_t error = __wasi_fd_prestat_get(fd, &prestat);
    snprintf(question, sizeof question, "fd_prestat_get of %u", fd);
    if (error) say(question, error);
    else answer(question, "ok tag %u", prestat.tag);
    error = __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, sizeof name);
    snprintf(question, sizeof question, "fd_prestat_dir_name of %u", fd);
    if (error) say(question, error);
    else answer(question, "ok %s", name);
  }
}

/* Every function of preview 1 on a descriptor, but for those of sockets and polling. */
static void ask_all(const char *kind, fd_t fd) {
  uint8_t bytes[64] = "x";
  __wasi_iovec_t into = {bytes, 1};
  __wasi_ciovec_t from = {bytes, 1};
  __wasi_size_t length;
  __wasi_filesize_t at;
  __wasi_prestat_t prestat;
  __wasi_fdstat_t stat = {0};
  __wasi_filestat_t file = {0};
  fd_t opened;
  errno_t error = __wasi_fd_fdstat_get(fd, &stat);
  say_of("fd_fdstat_get", kind, error);
  if (!error) {
    printf("type of %s: %u\nflags of %s: %u\n", kind, stat.fs_filetype, kind, stat.fs_flags);
    printf("rights of %s: %#llx, %#llx\n", kind, stat.fs_rights_base, stat.fs_rights_inheriting);
  }
  error = __wasi_fd_filestat_get(fd, &file);
  say_of("fd_filestat_get", kind, error);
  if (!error && fd != DIRECTORY) printf("file type and size of %s: %u, %llu\n", kind, file.filetype, file.size);
  say_of("fd_prestat_get", kind, __wasi_fd_prestat_get(fd, &prestat));
  say_of("fd_prestat_dir_name", kind, __wasi_fd_prestat_dir_name(fd, bytes, sizeof bytes));
  say_of("fd_advise", kind, __wasi_fd_advise(fd, 0, 1, __WASI_ADVICE_NORMAL));
  say_of("fd_allocate", kind, __wasi_fd_allocate(fd, 0, 1));
  say_of("fd_datasync", kind, __wasi_fd_datasync(fd));
  say_of("fd_sync", kind, __wasi_fd_sync(fd));
  say_of("fd_seek", kind, __wasi_fd_seek(fd, 0, __WASI_WHENCE_CUR, &at));
  say_of("fd_tell", kind, __wasi_fd_tell(fd, &at));
  say_of("fd_filestat_set_size", kind, __wasi_fd_filestat_set_size(fd, 1));
  say_of("fd_filestat_set_times", kind, __wasi_fd_filestat_set_times(fd, 1, 1, __WASI_FSTFLAGS_ATIM));
  say_of("fd_fdstat_set_rights, to the same,", kind,
         __wasi_fd_fdstat_set_rights(fd, stat.fs_rights_base, stat.fs_rights_inheriting));
  say_of("fd_pread", kind, __wasi_fd_pread(fd, &into, 1, 0, &length));
  say_of("fd_pwrite", kind, __wasi_fd_pwrite(fd, &from, 1, 0, &length));
  if (fd != DIRECTORY) say_of("fd_readdir", kind, __wasi_fd_readdir(fd, bytes, sizeof bytes, 0, &length));
  say_of("path_open", kind, __wasi_path_open(fd, 0, "absent", 0, __WASI_RIGHTS_FD_READ, 0, 0, &opened));
  say_of("path_filestat_get", kind, __wasi_path_filestat_get(fd, 0, "absent", &file));
  say_of("path_readlink", kind, __wasi_path_readlink(fd, "absent", bytes, sizeof bytes, &length));
  say_of("path_unlink_file", kind, __wasi_path_unlink_file(fd, "absent"));
  say_of("path_remove_directory", kind, __wasi_path_remove_directory(fd, "absent"));
  say_of("path_rename", kind, __wasi_path_rename(fd, "absent", fd, "other"));
}

static void ask_sockets(const char *kind, fd_t fd) {
  uint8_t byte = 'x';
  __wasi_iovec_t into = {&byte, 1};
  __wasi_ciovec_t from = {&byte, 1};
  __wasi_size_t length;
  __wasi_roflags_t flags;
  fd_t opened;
  say_of("sock_accept", kind, __wasi_sock_accept(fd, 0, &opened));
  say_of("sock_recv", kind, __wasi_sock_recv(fd, &into, 1, 0, &length, &flags));
  say_of("sock_send", kind, __wasi_sock_send(fd, &from, 1, 0, &length));
  say_of("sock_shutdown", kind, __wasi_sock_shutdown(fd, SENDING));
}

static void set_flags(const char *kind, fd_t fd) {
  static const struct { __wasi_fdflags_t flags; const char *name; } all[] = {
      {0, "nothing"}, {NONBLOCK, "nonblock"}, {__WASI_FDFLAGS_APPEND, "append"},
      {NONBLOCK | __WASI_FDFLAGS_SYNC, "nonblock and sync"}};
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    char question[80];
    snprintf(question, sizeof question, "fd_fdstat_set_flags, to %s, of %s", all[i].name, kind);
    say(question, __wasi_fd_fdstat_set_flags(fd, all[i].flags));
    snprintf(question, sizeof question, "flags then of %s, set to %s", kind, all[i].name);
    show_flags(question, fd);
  }
}

static void scene_listener(void) {
  ask_all("a listener", LISTENER);
  set_flags("a listener", LISTENER);
  ask_sockets("a listener", LISTENER);
  RECEIVE("fd_read of a listener", LISTENER, READ, 4);
  SEND("fd_write of a listener", LISTENER, WRITE, "x");
  act("connect a");
  answer("after all that, it accepts", "%s", accepted(0) < NEVER_OPEN ? "ok" : "no");
}

static void scene_stream(void) {
  fd_t stream = connected("a", NONBLOCK);
  ask_all("a stream", stream);
  set_flags("a stream", stream);
  say_of("sock_accept", "a stream", __wasi_sock_accept(stream, 0, &(fd_t){0}));
  SEND("after all that, it sends", stream, 0, "x");
  act("receive a 1");
}

static void scene_strangers(void) {
  fd_t file = NEVER_OPEN, stream = connected("a", NONBLOCK);
  say("path_open of a file", __wasi_path_open(DIRECTORY, 0, "file", __WASI_OFLAGS_CREAT,
                                              __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE, 0, 0, &file));
  ask_sockets("stdin", STDIN);
  ask_sockets("stdout", STDOUT);
  ask_sockets("a directory", DIRECTORY);
  ask_sockets("a file", file);
  ask_sockets("what was never open", NEVER_OPEN);
  ask_all("what was never open", NEVER_OPEN);
  RECEIVE("fd_read of what was never open", NEVER_OPEN, READ, 4);
  SEND("fd_write of what was never open", NEVER_OPEN, WRITE, "x");
  say_of("fd_close", "a stream", __wasi_fd_close(stream));
  say_of("fd_close", "a closed stream", __wasi_fd_close(stream));
  ask_sockets("a closed stream", stream);
  show_flags("flags of a closed stream", stream);
  say("sock_shutdown of nothing, of what was never open", __wasi_sock_shutdown(NEVER_OPEN, 0));
  POLL("reading a file and writing it", reading(1, file), writing(2, file), MUCH_LATER);
}

static void scene_numbers(void) {
  fd_t first = connected("a", 0), second = connected("b", 0);
  answer("first descriptor accepted", "%u", first);
  answer("second descriptor accepted", "%u", second);
  say("fd_close of the first", __wasi_fd_close(first));
  act("receive a all");
  fd_t third = connected("c", 0);
  answer("the next is the lowest free", "%s", third == first ? "yes" : "no");
  say("fd_renumber to one never open", __wasi_fd_renumber(second, NEVER_OPEN));
  say("fd_renumber from one never open", __wasi_fd_renumber(NEVER_OPEN, second));
  say("fd_renumber of a stream to itself", __wasi_fd_renumber(second, second));
  SEND("a stream renumbered to itself sends", second, 0, "b");
  act("receive b 1");
  say("fd_renumber of a stream to a stream", __wasi_fd_renumber(second, third));
  SEND("a renumbered stream sends, by its new number", third, 0, "B");
  act("receive b 1");
  SEND("a renumbered stream sends, by its old number", second, 0, "B");
  act("receive c all");
  say("fd_renumber of a stream to the listener", __wasi_fd_renumber(third, LISTENER));
  SEND("descriptor 3 is now that stream", LISTENER, 0, "3");
  act("receive b 1");
  act("connect d");
}

static void scene_closing(void) {
  fd_t stream = connected("a", 0);
  act("send a unread");
  say("fd_close with bytes unread", __wasi_fd_close(stream));
  act("receive a all");
  stream = connected("b", 0);
  SEND("sock_send before fd_close", stream, 0, "last words");
  say("fd_close with bytes under way", __wasi_fd_close(stream));
  act("receive b all");
  act("connect c");
  say("fd_close of the listener", __wasi_fd_close(LISTENER));
  act("receive c all");
  act("connect d");
  say("sock_accept of the closed listener", __wasi_sock_accept(LISTENER, 0, &(fd_t){0}));
  show_flags("flags of the closed listener", LISTENER);
}

/* ---- scenes: streams ---------------------------------------------------------------------------- */

static void scene_accepting(void) {
  fd_t fd;
  show_flags("flags of the listener at the start", LISTENER);
  say("sock_accept when nothing pends", __wasi_sock_accept(LISTENER, 0, &fd));
  say("sock_accept when nothing pends, nonblock", __wasi_sock_accept(LISTENER, NONBLOCK, &fd));
  POLL("reading the listener when nothing pends", reading(1, LISTENER), SHORTLY);
  act("connect a");
  POLL_BYTES("reading the listener when one pends", reading(1, LISTENER), MUCH_LATER);
  POLL("the same again", reading(1, LISTENER), MUCH_LATER);
  show_flags("flags of a stream accepted with none", accepted(0));
  say("sock_accept once all are accepted", __wasi_sock_accept(LISTENER, 0, &fd));
  show_flags("flags of a stream accepted with nonblock", connected("b", NONBLOCK));
  act("connect c");
  act("connect d");
  fd_t c = accepted(NONBLOCK), d = accepted(NONBLOCK);
  SEND("sock_send to the first of two that pended", c, 0, "1");
  SEND("sock_send to the second", d, 0, "2");
  act("receive c 1");
  act("receive d 1");
  act("connect e");
  act("finish e");
  fd_t e = accepted(NONBLOCK);
  RECEIVE("sock_recv from one that finished before it was accepted", e, 0, 4);
  act("connect f");
  act("send f early");
  fd_t f = accepted(NONBLOCK);
  RECEIVE("sock_recv from one that sent before it was accepted", f, 0, 8);
}

static void scene_accepting_by_waiting(void) {
  say("fd_fdstat_set_flags of the listener, to nothing", __wasi_fd_fdstat_set_flags(LISTENER, 0));
  show_flags("flags of the listener", LISTENER);
  soon("connect a");
  fd_t a = accepted(0);
  done();
  SEND("sock_send to whom it waited for", a, 0, "a");
  act("receive a 1");
  soon("connect b");
  POLL("reading the listener, which a client ends", reading(1, LISTENER), MUCH_LATER);
  done();
  fd_t b = accepted(0);
  SEND("sock_send to whom it polled for", b, 0, "b");
  act("receive b 1");
  soon("connect c");
  POLL("reading the listener, without a timer", reading(1, LISTENER));
  done();
}

static void scene_accepting_with_other_flags(void) {
  fd_t fd = NEVER_OPEN;
  act("connect a");
  say("sock_accept with append", __wasi_sock_accept(LISTENER, __WASI_FDFLAGS_APPEND, &fd));
  say("sock_accept after that", __wasi_sock_accept(LISTENER, 0, &fd));
}

static void scene_accepting_a_reset(void) {
  fd_t fd = NEVER_OPEN;
  act("connect a");
  act("reset a");
  errno_t error = __wasi_sock_accept(LISTENER, NONBLOCK, &fd);
  say("sock_accept of a connection that was reset", error);
  if (!error) RECEIVE("sock_recv from it", fd, 0, 4);
}

static void scene_receiving(void) {
  fd_t a = connected("a", NONBLOCK);
  RECEIVE("sock_recv when nothing came", a, 0, 4);
  RECEIVE("fd_read when nothing came", a, READ, 4);
  RECEIVE("sock_recv, peek, when nothing came", a, PEEK, 4);
  RECEIVE("sock_recv, waitall, when nothing came", a, WAITALL, 4);
  RECEIVE("sock_recv into no bytes when nothing came", a, 0, 0);
  act("send a hello, world. goodbye, world.");
  RECEIVE("sock_recv, peek", a, PEEK, 5);
  RECEIVE("sock_recv, peek again", a, PEEK, 7);
  RECEIVE("sock_recv into a small buffer", a, 0, 2);
  RECEIVE("sock_recv into no bytes", a, 0, 0);
  receive("sock_recv into no buffers", a, 0, 0, NULL);
  RECEIVE("fd_read into a small buffer", a, READ, 3);
  receive("fd_read into no buffers", a, READ, 0, NULL);
  RECEIVE("sock_recv, waitall, of what came", a, WAITALL, 3);
  RECEIVE("sock_recv, waitall and peek, of what came", a, WAITALL | PEEK, 3);
  RECEIVE("sock_recv into more than what came", a, 0, 60);
  RECEIVE("sock_recv once all was received", a, 0, 4);
  act("finish a");
  RECEIVE("sock_recv at the end", a, 0, 4);
  RECEIVE("sock_recv at the end again", a, 0, 4);
  RECEIVE("sock_recv, peek, at the end", a, PEEK, 4);
  RECEIVE("fd_read at the end", a, READ, 4);
}

static void scene_receiving_by_waiting(void) {
  fd_t a = connected("a", 0);
  soon("send a one");
  RECEIVE("sock_recv waits", a, 0, 8);
  done();
  soon("send a two");
  RECEIVE("fd_read waits", a, READ, 8);
  done();
  soon("send a three");
  RECEIVE("sock_recv, peek, waits", a, PEEK, 8);
  done();
  RECEIVE("sock_recv of what was peeked at", a, 0, 8);
  soon("send a four");
  soon("send a five");
  RECEIVE("sock_recv, waitall, waits for all", a, WAITALL, 8);
  done();
  done();
  RECEIVE("sock_recv into no bytes does not wait", a, 0, 0);
  soon("finish a");
  RECEIVE("sock_recv waits for the end", a, 0, 8);
  done();
}

static void scene_receiving_into_several(void) {
  static const struct { const char *question; unsigned flags; } all[] = {
      {"sock_recv into four buffers, one empty", 0},
      {"sock_recv, peek, into four buffers", PEEK},
      {"sock_recv, waitall, into four buffers", WAITALL},
      {"fd_read into four buffers", READ}};
  fd_t a = connected("a", NONBLOCK);
  for (size_t i = 0; i < sizeof all / sizeof *all; i++) {
    char rest[80];
    snprintf(rest, sizeof rest, "what %s leaves", all[i].question);
    act("send a abcdefgh");
    RECEIVE(all[i].question, a, all[i].flags, 0, 1, 2, 3);
    RECEIVE(rest, a, 0, 20);
  }
}

static void scene_receiving_all_at_once(void) {
  fd_t a = connected("a", NONBLOCK);
  act("send a abc");
  RECEIVE("sock_recv, waitall, of more than came, nonblock", a, WAITALL, 5);
  act("send a de");
  RECEIVE("sock_recv after that", a, 0, 5);
}

static void scene_receiving_all_up_to_the_end(void) {
  fd_t a = connected("a", 0);
  act("send a abc");
  act("finish a");
  RECEIVE("sock_recv, waitall, of more than comes", a, WAITALL, 5);
  RECEIVE("sock_recv after that", a, 0, 5);
}

static void scene_sending(void) {
  fd_t a = connected("a", NONBLOCK);
  SEND("sock_send", a, 0, "one");
  act("receive a 3");
  SEND("sock_send of three buffers", a, 0, "t", "", "wo");
  act("receive a 3");
  SEND("fd_write of two buffers", a, WRITE, "thr", "ee");
  act("receive a 5");
  SEND("sock_send of no bytes", a, 0, "");
  send("sock_send of no buffers", a, 0, 0, NULL);
  send("fd_write of no buffers", a, WRITE, 0, NULL);
  SEND("head", a, 0, "head ");
  SEND("body", a, 0, "body");
  act("receive a 9");
  act("finish a");
  SEND("sock_send to a client that has finished", a, 0, "late");
  act("receive a 4");
}

static void scene_sending_much(void) {
  enum { MUCH = 1 << 22 };
  uint8_t *bytes = calloc(1, MUCH);
  __wasi_ciovec_t from = {bytes, MUCH};
  __wasi_size_t length = 0;
  size_t total = 0;
  char action[32];
  fd_t a = connected("a", NONBLOCK);
  errno_t error = __wasi_sock_send(a, &from, 1, 0, &length);
  answer("sock_send of more than has room, nonblock", "%s%s", name_of(error), length < MUCH ? ", a part" : ", all");
  for (; !error; error = __wasi_sock_send(a, &from, 1, 0, &length)) total += length;
  say("sock_send until there is no room", error);
  POLL("writing without room", writing(1, a), SHORTLY);
  snprintf(action, sizeof action, "drain a %zu", total);
  soon(action);
  POLL("writing, until the client makes room", writing(1, a), MUCH_LATER);
  done();
  fd_t b = connected("b", 0);
  snprintf(action, sizeof action, "drain b %d", MUCH);
  soon(action);
  error = __wasi_sock_send(b, &from, 1, 0, &length);
  answer("sock_send of more than has room, waiting", "%s %zu", name_of(error), length);
  done();
}

/* Flags that there are not: a scene each, since they end some host. */

static void scene_no_such_accept(void) {
  act("connect a");
  say("sock_accept with flags that there are not", __wasi_sock_accept(LISTENER, 0x20, &(fd_t){0}));
  say("sock_accept after that", __wasi_sock_accept(LISTENER, 0, &(fd_t){0}));
}

static void scene_no_such_receive(void) {
  fd_t a = connected("a", NONBLOCK);
  act("send a hello");
  RECEIVE("sock_recv with flags that there are not", a, 4, 8);
  RECEIVE("sock_recv after that", a, 0, 8);
}

static void scene_no_such_send(void) {
  fd_t a = connected("a", NONBLOCK);
  SEND("sock_send with flags that there are not", a, 1, "one ");
  SEND("sock_send after that", a, 0, "two");
  say("sock_shutdown after that", __wasi_sock_shutdown(a, SENDING));
  act("receive a all");
}

static void scene_no_such_shutdown(void) {
  fd_t a = connected("a", NONBLOCK);
  say("sock_shutdown of what there is not", __wasi_sock_shutdown(a, 4));
  SEND("sock_send after that", a, 0, "x");
  act("receive a 1");
}

static void scene_no_such_flags(void) {
  fd_t a = connected("a", NONBLOCK);
  say("fd_fdstat_set_flags, to what there is not", __wasi_fd_fdstat_set_flags(a, 0x20));
  show_flags("flags after that", a);
}

/* ---- scenes: polling ---------------------------------------------------------------------------- */

static void scene_polling(void) {
  fd_t a = connected("a", NONBLOCK), b = connected("b", NONBLOCK);
  POLL("reading two idle streams", reading(1, a), reading(2, b), SHORTLY);
  POLL("writing a stream", writing(1, a), MUCH_LATER);
  POLL("writing it again, unused", writing(1, a), MUCH_LATER);
  POLL("writing a stream, without a timer", writing(1, b));
  POLL_BYTES("bytes of writing a stream", writing(1, b));
  POLL("the same subscription twice", writing(1, b), writing(1, b));
  POLL("writing the listener", writing(1, LISTENER), SHORTLY);
  POLL("a timer of 0, and idle streams", reading(1, a), reading(2, b), timer(0));
  act("send a hello");
  POLL("reading a stream that was sent to", reading(1, a), MUCH_LATER);
  POLL_BYTES("bytes of reading it", reading(1, a), MUCH_LATER);
  POLL("reading and writing it, as one", reading(1, a), writing(1, a), MUCH_LATER);
  POLL_BYTES("reading it with a timer of 0, as wasi-libc's FIONREAD", timer(0), reading(1, a));
  RECEIVE("a part of what was sent", a, 0, 2);
  POLL("reading the rest", reading(1, a), MUCH_LATER);
  RECEIVE("the rest of what was sent", a, 0, 8);
  POLL("reading it when all is received", reading(1, a), SHORTLY);
}

static void scene_polling_many(void) {
  fd_t a = connected("a", NONBLOCK), b = connected("b", NONBLOCK);
  POLL("reading and writing an idle stream", reading(1, a), writing(2, a), MUCH_LATER);
  act("send b hello");
  POLL("reading an idle stream and one that was sent to", reading(1, a), reading(2, b), MUCH_LATER);
  POLL("reading that and the listener", reading(1, LISTENER), reading(2, b), MUCH_LATER);
  POLL("writing before reading", writing(1, b), reading(2, b), MUCH_LATER);
  act("connect c");
  POLL("reading and writing the listener when one pends", reading(1, LISTENER), writing(2, LISTENER), MUCH_LATER);
}

static void scene_polling_by_waiting(void) {
  fd_t a = connected("a", NONBLOCK), b = connected("b", NONBLOCK);
  soon("send a one");
  POLL("reading, which a client ends", reading(1, a));
  done();
  RECEIVE("what it sent", a, 0, 8);
  soon("send b two");
  POLL("reading, which a client ends before a timer", reading(1, b), MUCH_LATER);
  done();
}

static void scene_polling_nothing(void) { poll("nothing", false, 0, &(__wasi_subscription_t){0}); }

static void scene_polling_what_was_never_open(void) {
  POLL("reading what was never open", reading(1, NEVER_OPEN), MUCH_LATER);
  POLL("writing what was never open", writing(1, NEVER_OPEN), MUCH_LATER);
  fd_t stream = connected("a", NONBLOCK);
  POLL("reading it beside a stream", reading(1, NEVER_OPEN), writing(2, stream), MUCH_LATER);
}

/* ---- scenes: ends ------------------------------------------------------------------------------- */

static void scene_half_closed(void) {
  fd_t a = connected("a", NONBLOCK);
  act("send a last");
  act("finish a");
  POLL("reading, last bytes and the end", reading(1, a), MUCH_LATER);
  RECEIVE("the last bytes", a, 0, 8);
  POLL("reading at the end", reading(1, a), MUCH_LATER);
  POLL_BYTES("bytes of reading at the end", reading(1, a), MUCH_LATER);
  POLL("writing at the end", writing(1, a), MUCH_LATER);
  RECEIVE("the end", a, 0, 8);
  SEND("an answer, after the end", a, 0, "answer");
  act("receive a 6");
  say("sock_shutdown of sending, after the end", __wasi_sock_shutdown(a, SENDING));
  act("receive a all");
  POLL("reading when both have finished", reading(1, a), MUCH_LATER);
  POLL("writing when both have finished", writing(1, a), MUCH_LATER);
  RECEIVE("sock_recv when both have finished", a, 0, 8);
}

static void scene_half_closed_by_guest(void) {
  fd_t a = connected("a", NONBLOCK);
  SEND("sock_send before sock_shutdown", a, 0, "all");
  say("sock_shutdown of sending", __wasi_sock_shutdown(a, SENDING));
  act("receive a all");
  SEND("sock_send after sock_shutdown", a, 0, "more");
  SEND("fd_write after sock_shutdown", a, WRITE, "more");
  say("sock_shutdown of sending, again", __wasi_sock_shutdown(a, SENDING));
  POLL("reading after sock_shutdown of sending", reading(1, a), SHORTLY);
  POLL("writing after sock_shutdown of sending", writing(1, a), MUCH_LATER);
  act("send a still heard");
  RECEIVE("sock_recv after sock_shutdown of sending", a, 0, 20);
}

static void scene_shutting_down(void) {
  fd_t a = connected("a", NONBLOCK), b = connected("b", NONBLOCK);
  say("sock_shutdown of nothing", __wasi_sock_shutdown(a, 0));
  SEND("after that, it sends", a, 0, "x");
  act("receive a 1");
  say("sock_shutdown of receiving", __wasi_sock_shutdown(a, RECEIVING));
  RECEIVE("sock_recv after sock_shutdown of receiving", a, 0, 4);
  POLL("reading after sock_shutdown of receiving", reading(1, a), MUCH_LATER);
  SEND("sock_send after sock_shutdown of receiving", a, 0, "y");
  act("receive a 1");
  say("sock_shutdown of both", __wasi_sock_shutdown(b, RECEIVING | SENDING));
  act("receive b all");
  RECEIVE("sock_recv after sock_shutdown of both", b, 0, 4);
  SEND("sock_send after sock_shutdown of both", b, 0, "z");
  POLL("reading after sock_shutdown of both", reading(1, b), MUCH_LATER);
  POLL("writing after sock_shutdown of both", writing(1, b), MUCH_LATER);
  say("sock_shutdown of both, again", __wasi_sock_shutdown(b, RECEIVING | SENDING));
}

static void scene_reset_and_received(void) {
  fd_t a = connected("a", NONBLOCK);
  act("reset a");
  RECEIVE("sock_recv after a reset", a, 0, 4);
  RECEIVE("sock_recv after that", a, 0, 4);
  SEND("sock_send after that", a, 0, "x");
  show_flags("flags after a reset", a);
  say("fd_close after a reset", __wasi_fd_close(a));
}

static void scene_reset_and_sent(void) {
  fd_t a = connected("a", NONBLOCK);
  act("reset a");
  SEND("sock_send after a reset", a, 0, "x");
  SEND("sock_send after that", a, 0, "x");
  RECEIVE("sock_recv after that", a, 0, 4);
}

static void scene_reset_and_polled(void) {
  fd_t a = connected("a", NONBLOCK);
  act("reset a");
  POLL("reading after a reset", reading(1, a), MUCH_LATER);
  POLL("writing after a reset", writing(1, a), MUCH_LATER);
  POLL("reading and writing after a reset", reading(1, a), writing(1, a), MUCH_LATER);
  RECEIVE("sock_recv after these", a, 0, 4);
}

static void scene_reset_and_shut_down(void) {
  fd_t a = connected("a", NONBLOCK);
  act("reset a");
  say("sock_shutdown after a reset", __wasi_sock_shutdown(a, SENDING));
  say("sock_shutdown after a reset, again", __wasi_sock_shutdown(a, SENDING));
}

static void scene_reset_while_waiting(void) {
  fd_t a = connected("a", 0);
  soon("reset a");
  RECEIVE("sock_recv waits for a reset", a, 0, 4);
  done();
  fd_t b = connected("b", 0);
  soon("reset b");
  POLL("reading, which a reset ends", reading(1, b));
  done();
  RECEIVE("sock_recv after that reset", b, 0, 4);
}

static void scene_gone(void) {
  fd_t a = connected("a", NONBLOCK);
  act("close a");
  RECEIVE("sock_recv from one that is gone", a, 0, 4);
  SEND("sock_send to one that is gone", a, 0, "x");
  act("settle a");
  POLL("reading, once its reset came", reading(1, a), MUCH_LATER);
  SEND("sock_send after that", a, 0, "x");
}

/* ---- which -------------------------------------------------------------------------------------- */

int main(int count, char **arguments) {
  static const struct { const char *name; void (*play)(void); } scenes[] = {
      {"preopens", scene_preopens},
      {"listener", scene_listener},
      {"stream", scene_stream},
      {"strangers", scene_strangers},
      {"numbers", scene_numbers},
      {"closing", scene_closing},
      {"accepting", scene_accepting},
      {"accepting-by-waiting", scene_accepting_by_waiting},
      {"accepting-with-other-flags", scene_accepting_with_other_flags},
      {"accepting-a-reset", scene_accepting_a_reset},
      {"receiving", scene_receiving},
      {"receiving-by-waiting", scene_receiving_by_waiting},
      {"receiving-into-several", scene_receiving_into_several},
      {"receiving-all-at-once", scene_receiving_all_at_once},
      {"receiving-all-up-to-the-end", scene_receiving_all_up_to_the_end},
      {"sending", scene_sending},
      {"sending-much", scene_sending_much},
      {"no-such-accept", scene_no_such_accept},
      {"no-such-receive", scene_no_such_receive},
      {"no-such-send", scene_no_such_send},
      {"no-such-shutdown", scene_no_such_shutdown},
      {"no-such-flags", scene_no_such_flags},
      {"polling", scene_polling},
      {"polling-many", scene_polling_many},
      {"polling-by-waiting", scene_polling_by_waiting},
      {"polling-nothing", scene_polling_nothing},
      {"polling-what-was-never-open", scene_polling_what_was_never_open},
      {"half-closed", scene_half_closed},
      {"half-closed-by-guest", scene_half_closed_by_guest},
      {"shutting-down", scene_shutting_down},
      {"reset-and-received", scene_reset_and_received},
      {"reset-and-sent", scene_reset_and_sent},
      {"reset-and-polled", scene_reset_and_polled},
      {"reset-and-shut-down", scene_reset_and_shut_down},
      {"reset-while-waiting", scene_reset_while_waiting},
      {"gone", scene_gone},
  };
  setvbuf(stdout, NULL, _IOLBF, 0); /* a line at a time, so that a hang or a trap shows after what it followed */
  for (size_t i = 0; i < sizeof scenes / sizeof *scenes; i++) {
    if (count < 2) printf("%s\n", scenes[i].name);
    else if (!strcmp(arguments[1], scenes[i].name)) return scenes[i].play(), 0;
  }
  return count < 2 ? 0 : 2;
}
