/* Asks a preview 1 host the questions that guests' libraries depend on, and prints its answers, one
   line each: no server, and nothing to pass or fail. Its output is the same at every run on one host
   (times are told as at once / slept / late), so two hosts, or two versions of one, can be compared:

     RUNTIME run --dir DIR::/data probe.wasm < /dev/null
     RUNTIME run probe.wasm QUESTION

   Without a directory that it may write to, the lines about files are missing. A question that hangs
   or traps some host is asked only by its name (see `alone`), and no other with it. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <wasi/api.h>

enum { SLEEP_MS = 20, LATE_MS = 500, BAD_FD = 4242, BAD_CLOCK = 77 };

static const char FILE_NAME[] = "anyport-probe";

static uint64_t now(__wasi_clockid_t clock) {
  __wasi_timestamp_t time = 0;
  (void)__wasi_clock_time_get(clock, 1, &time);
  return time;
}

static void say(const char *question, __wasi_errno_t error) { printf("%-44s errno %u\n", question, error); }

/* ---- poll_oneoff ------------------------------------------------------------------------------ */

static __wasi_subscription_t on_fd(uint64_t userdata, __wasi_eventtype_t type, __wasi_fd_t fd) {
  __wasi_subscription_t s = {.userdata = userdata, .u.tag = type};
  s.u.u.fd_read.file_descriptor = fd; /* fd_write has it in the same place */
  return s;
}

static __wasi_subscription_t reading(uint64_t userdata, __wasi_fd_t fd) {
  return on_fd(userdata, __WASI_EVENTTYPE_FD_READ, fd);
}

static __wasi_subscription_t writing(uint64_t userdata, __wasi_fd_t fd) {
  return on_fd(userdata, __WASI_EVENTTYPE_FD_WRITE, fd);
}

/* `ms` from now or, if `at` is a time, from then. */
static __wasi_subscription_t timer(uint64_t userdata, __wasi_clockid_t clock, int64_t ms, uint64_t at) {
  __wasi_subscription_t s = {.userdata = userdata, .u.tag = __WASI_EVENTTYPE_CLOCK};
  s.u.u.clock = (__wasi_subscription_clock_t){
      .id = clock,
      .timeout = at + (uint64_t)(ms * 1000000),
      .flags = at ? __WASI_SUBCLOCKFLAGS_SUBSCRIPTION_CLOCK_ABSTIME : 0,
  };
  return s;
}

static void poll(const char *question, __wasi_size_t count, const __wasi_subscription_t *subscriptions) {
  __wasi_event_t events[8] = {0};
  __wasi_size_t got = 0;
  uint64_t before = now(__WASI_CLOCKID_MONOTONIC);
  __wasi_errno_t error = __wasi_poll_oneoff(subscriptions, events, count, &got);
  uint64_t ms = (now(__WASI_CLOCKID_MONOTONIC) - before) / 1000000;
  const char *took = ms >= LATE_MS ? "late" : ms >= SLEEP_MS - 1 ? "slept" : "at once";
  printf("poll %-39s errno %u, %s, events %zu", question, error, took, got);
  for (__wasi_size_t i = 0; i < got; i++) {
    static const char *const types[] = {"clock", "read", "write"};
    printf(" | %llu %s", events[i].userdata, types[events[i].type % 3]);
    if (events[i].error) printf(" error %u", events[i].error);
    if (events[i].type != __WASI_EVENTTYPE_CLOCK && events[i].fd_readwrite.nbytes > 0) printf(" bytes");
    if (events[i].fd_readwrite.flags) printf(" flags %u", events[i].fd_readwrite.flags);
  }
  printf("\n");
}

#define POLL(question, ...) \
  poll(question, sizeof((__wasi_subscription_t[]){__VA_ARGS__}) / sizeof(__wasi_subscription_t), \
       (__wasi_subscription_t[]){__VA_ARGS__})

static void poll_clocks(void) {
  enum { MONOTONIC = __WASI_CLOCKID_MONOTONIC, REALTIME = __WASI_CLOCKID_REALTIME };
  POLL("a timer", timer(1, MONOTONIC, SLEEP_MS, 0));
  POLL("a timer of 0", timer(1, MONOTONIC, 0, 0));
  POLL("a timer until", timer(1, MONOTONIC, SLEEP_MS, now(MONOTONIC)));
  POLL("a timer until a time past", timer(1, MONOTONIC, -1, now(MONOTONIC)));
  POLL("a realtime timer", timer(1, REALTIME, SLEEP_MS, 0));
  POLL("a realtime timer until", timer(1, REALTIME, SLEEP_MS, now(REALTIME)));
  POLL("a realtime timer until a time past", timer(1, REALTIME, -1, now(REALTIME)));
  POLL("two timers", timer(1, MONOTONIC, 10000, 0), timer(2, MONOTONIC, SLEEP_MS, 0));
  POLL("two timers of 0", timer(1, MONOTONIC, 0, 0), timer(2, MONOTONIC, 0, 0));
  POLL("the same timer twice", timer(1, MONOTONIC, SLEEP_MS, 0), timer(1, MONOTONIC, SLEEP_MS, 0));
}

static void poll_stdio(void) {
  POLL("writing stdout", writing(1, 1));
  POLL("writing stdout, and a timer", writing(1, 1), timer(2, __WASI_CLOCKID_MONOTONIC, SLEEP_MS, 0));
  POLL("writing stdout, and a timer of 0", writing(1, 1), timer(2, __WASI_CLOCKID_MONOTONIC, 0, 0));
  POLL("writing stdout twice", writing(1, 1), writing(2, 1));
  POLL("reading stdin, and a timer", reading(1, 0), timer(2, __WASI_CLOCKID_MONOTONIC, SLEEP_MS, 0));
  POLL("reading stdin twice, and a timer", reading(1, 0), reading(1, 0), timer(2, __WASI_CLOCKID_MONOTONIC, SLEEP_MS, 0));
}

static void poll_file(__wasi_fd_t file, __wasi_fd_t directory) {
  POLL("reading a file", reading(1, file));
  POLL("writing a file", writing(1, file));
  POLL("reading and writing a file, one userdata", reading(1, file), writing(1, file));
  POLL("reading a directory, and a timer", reading(1, directory), timer(2, __WASI_CLOCKID_MONOTONIC, SLEEP_MS, 0));
}

/* ---- other calls ------------------------------------------------------------------------------ */

static void ask_clock(const char *name, __wasi_clockid_t clock) {
  char question[64];
  __wasi_timestamp_t time;
  snprintf(question, sizeof question, "clock_time_get %s", name);
  say(question, __wasi_clock_time_get(clock, 1, &time));
  snprintf(question, sizeof question, "clock_res_get %s", name);
  say(question, __wasi_clock_res_get(clock, &time));
}

static void ask_stat(const char *name, __wasi_fd_t fd) {
  __wasi_fdstat_t stat = {0};
  __wasi_errno_t error = __wasi_fd_fdstat_get(fd, &stat);
  printf("fd_fdstat_get %-30s errno %u", name, error);
  if (!error) printf(", type %u flags %#x rights %#llx, %#llx", stat.fs_filetype, stat.fs_flags, stat.fs_rights_base, stat.fs_rights_inheriting);
  __wasi_filestat_t file = {0};
  error = __wasi_fd_filestat_get(fd, &file);
  printf("; fd_filestat_get errno %u", error);
  if (!error) printf(", type %u", file.filetype);
  printf("\n");
}

static void ask_bad_fd(void) {
  uint8_t byte;
  __wasi_iovec_t into = {&byte, 1};
  __wasi_ciovec_t from = {&byte, 1};
  __wasi_size_t length;
  __wasi_filesize_t offset;
  __wasi_roflags_t flags;
  __wasi_prestat_t prestat;
  ask_stat("of a bad fd", BAD_FD);
  say("fd_prestat_get of a bad fd", __wasi_fd_prestat_get(BAD_FD, &prestat));
  say("fd_prestat_get of stdout", __wasi_fd_prestat_get(1, &prestat));
  say("fd_read of a bad fd", __wasi_fd_read(BAD_FD, &into, 1, &length));
  say("fd_write of a bad fd", __wasi_fd_write(BAD_FD, &from, 1, &length));
  say("fd_write of no bytes", __wasi_fd_write(1, &from, 0, &length));
  say("fd_seek of a bad fd", __wasi_fd_seek(BAD_FD, 0, __WASI_WHENCE_SET, &offset));
  say("fd_seek of stdin", __wasi_fd_seek(0, 0, __WASI_WHENCE_CUR, &offset));
  say("fd_fdstat_set_flags of a bad fd", __wasi_fd_fdstat_set_flags(BAD_FD, __WASI_FDFLAGS_NONBLOCK));
  say("fd_renumber of a bad fd", __wasi_fd_renumber(BAD_FD, BAD_FD + 1));
  say("fd_close of a bad fd", __wasi_fd_close(BAD_FD));
  say("sock_recv of a bad fd", __wasi_sock_recv(BAD_FD, &into, 1, 0, &length, &flags));
  say("sock_recv of stdin", __wasi_sock_recv(0, &into, 1, 0, &length, &flags));
  say("sock_send of a bad fd", __wasi_sock_send(BAD_FD, &from, 1, 0, &length));
  say("sock_send to stdout", __wasi_sock_send(1, &from, 1, 0, &length));
  say("sock_shutdown of a bad fd", __wasi_sock_shutdown(BAD_FD, __WASI_SDFLAGS_WR));
  say("sock_shutdown of stdout", __wasi_sock_shutdown(1, __WASI_SDFLAGS_WR));
}

/* Walks the preopened descriptors as wasi-libc and Go do; returns the first directory, or BAD_FD. */
static __wasi_fd_t ask_preopens(void) {
  __wasi_fd_t directory = BAD_FD;
  for (__wasi_fd_t fd = 3;; fd++) {
    __wasi_prestat_t prestat;
    char name[256] = "";
    __wasi_errno_t error = __wasi_fd_prestat_get(fd, &prestat);
    printf("fd_prestat_get %-29u errno %u", fd, error);
    if (!error) printf(", tag %u", prestat.tag);
    if (!error && prestat.tag == __WASI_PREOPENTYPE_DIR) {
      __wasi_size_t length = prestat.u.dir.pr_name_len;
      if (length < sizeof name) error = __wasi_fd_prestat_dir_name(fd, (uint8_t *)name, length);
      printf(", name %s", name);
      if (directory == BAD_FD) directory = fd;
    }
    printf("\n");
    if (error) return directory;
  }
}

static void ask_file(__wasi_fd_t directory) {
  enum { RIGHTS = __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE | __WASI_RIGHTS_FD_SEEK | __WASI_RIGHTS_FD_TELL };
  __wasi_rights_t rights = RIGHTS | __WASI_RIGHTS_FD_FILESTAT_GET | __WASI_RIGHTS_POLL_FD_READWRITE;
  __wasi_fd_t file;
  __wasi_errno_t error = __wasi_path_open(directory, 0, FILE_NAME, __WASI_OFLAGS_CREAT | __WASI_OFLAGS_TRUNC, rights, 0, 0, &file);
  say("path_open, creating", error);
  if (error) return;

  uint8_t bytes[8] = "answers";
  __wasi_ciovec_t from = {bytes, 7};
  __wasi_iovec_t into = {bytes, 7};
  __wasi_size_t length = 0;
  __wasi_filesize_t offset = 0;
  say("fd_write of a file", __wasi_fd_write(file, &from, 1, &length));
  say("fd_tell", __wasi_fd_tell(file, &offset));
  printf("%-44s %zu, %llu\n", "written, and told", length, offset);
  say("fd_read at the end", __wasi_fd_read(file, &into, 1, &length));
  printf("%-44s %zu\n", "read", length);
  say("fd_seek to the start", __wasi_fd_seek(file, 0, __WASI_WHENCE_SET, &offset));
  say("fd_seek before the start", __wasi_fd_seek(file, -1, __WASI_WHENCE_SET, &offset));
  ask_stat("of a file", file);
  ask_stat("of a directory", directory);
  say("sock_recv of a file", __wasi_sock_recv(file, &into, 1, 0, &length, &(__wasi_roflags_t){0}));
  poll_file(file, directory);
  say("fd_renumber to a fd in use", __wasi_fd_renumber(file, file));
  say("fd_close", __wasi_fd_close(file));
  say("fd_close again", __wasi_fd_close(file));
  say("path_open above the directory", __wasi_path_open(directory, 0, "../x", 0, rights, 0, 0, &file));
  say("path_open of an absolute path", __wasi_path_open(directory, 0, "/x", 0, rights, 0, 0, &file));
  say("path_open of nothing", __wasi_path_open(directory, 0, "", 0, rights, 0, 0, &file));
  say("path_unlink_file", __wasi_path_unlink_file(directory, FILE_NAME));
  say("path_unlink_file again", __wasi_path_unlink_file(directory, FILE_NAME));
}

/* ---- which questions --------------------------------------------------------------------------- */

static void ask_all(void) {
  ask_clock("realtime", __WASI_CLOCKID_REALTIME);
  ask_clock("monotonic", __WASI_CLOCKID_MONOTONIC);
  say("sched_yield", __wasi_sched_yield());
  say("random_get of no bytes", __wasi_random_get((uint8_t[1]){0}, 0));
  ask_stat("of stdin", 0);
  ask_stat("of stdout", 1);
  ask_bad_fd();
  __wasi_fd_t directory = ask_preopens();
  poll_clocks();
  poll_stdio();
  if (directory != BAD_FD) ask_file(directory);
}

static int alone(const char *question) {
  const __wasi_subscription_t sleep = timer(2, __WASI_CLOCKID_MONOTONIC, SLEEP_MS, 0);
#define IS(name) (!strcmp(question, name))
  if (IS("cpu-clocks")) {
    ask_clock("of the process", __WASI_CLOCKID_PROCESS_CPUTIME_ID);
    ask_clock("of the thread", __WASI_CLOCKID_THREAD_CPUTIME_ID);
  } else if (IS("bad-clock")) ask_clock("of a bad id", BAD_CLOCK);
  else if (IS("poll-nothing")) poll("nothing", 0, &sleep);
  else if (IS("poll-bad-fd")) POLL("a bad fd", reading(1, BAD_FD));
  else if (IS("poll-bad-fd-timer")) POLL("a bad fd, and a timer", reading(1, BAD_FD), sleep);
  else if (IS("poll-bad-fd-stdout")) POLL("a bad fd, and writing stdout", writing(1, BAD_FD), writing(2, 1));
  else if (IS("poll-cpu-clock")) POLL("the process's clock", timer(1, __WASI_CLOCKID_PROCESS_CPUTIME_ID, SLEEP_MS, 0));
  else if (IS("poll-bad-clock")) POLL("a bad clock", timer(1, BAD_CLOCK, SLEEP_MS, 0));
  else if (IS("poll-bad-type")) POLL("a bad type, and a timer", on_fd(1, 9, 1), sleep);
  else {
    fprintf(stderr, "no question is called `%s`\n", question);
    return 2;
  }
#undef IS
  return 0;
}

int main(int count, char **arguments) {
  setvbuf(stdout, NULL, _IONBF, 0); /* so that a hang or a trap shows after what it followed */
  if (count > 1) return alone(arguments[1]);
  ask_all();
}
