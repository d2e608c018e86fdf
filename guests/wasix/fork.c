// Prints what a host makes of processes: memory, descriptors, numbers, signals and ends of parents and children.
#include "common.h"
#include <signal.h>
#include <sys/wait.h>

static int number = 1;
static volatile sig_atomic_t told;

static void on_signal(int signal) { told = signal; }

static const char *name(int error) { return error == ECHILD ? "ECHILD" : error == ESRCH ? "ESRCH" : error == EAGAIN ? "EAGAIN" : error == ENOTSUP ? "ENOTSUP" : strerror(error); }

// How a child ended.
static void wait_for(const char *what, pid_t child) {
    int status = 0;
    pid_t ended = waitpid(child, &status, 0);
    if (ended < 0) printf("%s: %s\n", what, name(errno));
    else if (WIFEXITED(status)) printf("%s: %d exited with %d\n", what, ended, WEXITSTATUS(status));
    else printf("%s: %d was ended by signal %d\n", what, ended, WTERMSIG(status));
    fflush(stdout);
}

// A child that does something and exits with what comes of it.
static pid_t child_of(int (*does)(void)) {
    pid_t child = fork();
    if (child == 0) _exit(does());
    return child;
}

static int changes_memory(void) {
    number = 2;
    char *more = malloc(1 << 20);
    memset(more, 7, 1 << 20);
    return number + more[1000];
}

static int is_child(void) { return getpid() != 1 && getppid() == 1 ? 4 : 5; }
static int aborts(void) { abort(); }
static int faults(void) { return *(volatile int *)0xfffffff0; }
static int divides(void) { volatile int zero = 0; return 7 / zero; }
static int sleeps(void) { sleep(100); return 9; }
static int raises(void) { kill(getpid(), SIGKILL); return 9; }

static int ready[2];

// Says so when its handler is there.
static int handles(void) {
    signal(SIGUSR1, on_signal);
    write(ready[1], "1", 1);
    while (!told) usleep(1000);
    return told;
}

static int grandchild(void) {
    pid_t child = child_of(is_child);
    int status = 0;
    return waitpid(child, &status, 0) == child && WEXITSTATUS(status) == 5 ? 6 : 7;
}

// The stack is deep where the child begins, and goes on from there in both.
static int deep(int left) {
    volatile int here = left;
    if (left == 0) return fork() == 0 ? 100000 : 0;
    return deep(left - 1) + here;
}

static void of_memory(void) {
    wait_for("memory", child_of(changes_memory));
    printf("number is %d\n", number);
    int sum = deep(100);
    if (sum >= 100000) _exit(sum == 105050 ? 8 : 1);
    wait_for("deep", -1);
    printf("sum is %d\n", sum);
}

static void of_descriptors(void) {
    int ends[2];
    char got[16] = "";
    if (pipe(ends)) perror("pipe");
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        write(ends[1], "from a child", 12);
        _exit(0);
    }
    close(ends[1]);
    ssize_t bytes = read(ends[0], got, sizeof got - 1), end = read(ends[0], got + 12, 1);
    printf("pipe: %zd bytes, \"%s\", then %zd\n", bytes, got, end);
    close(ends[0]);
    wait_for("writer", child);
}

static void of_files(const char *path) {
    int file = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
    if (file < 0) {
        printf("file: none\n");
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        write(file, "child ", 6);
        close(file);
        _exit(0);
    }
    wait_for("file", child);
    write(file, "parent", 6);
    char got[16] = "";
    lseek(file, 0, SEEK_SET);
    read(file, got, sizeof got - 1);
    printf("\"%s\", %s\n", got, close(file) ? "lost" : "closed");
}

static void of_numbers(void) {
    printf("pid %d of %d\n", getpid(), getppid());
    wait_for("child", child_of(is_child));
    wait_for("grandchild", child_of(grandchild));
    wait_for("no child", -1);
    wait_for("stranger", 77);
}

static void of_ends(void) {
    wait_for("abort", child_of(aborts));
    wait_for("fault", child_of(faults));
    wait_for("division", child_of(divides));
    pid_t child = child_of(sleeps);
    int status = 7;
    pid_t none = waitpid(child, &status, WNOHANG);
    printf("not yet: %d\n", none);
    kill(child, SIGKILL);
    wait_for("SIGKILL", child);
    child = child_of(sleeps);
    kill(child, SIGTERM);
    wait_for("SIGTERM", child);
    if (pipe(ready)) perror("pipe");
    child = child_of(handles);
    char is_ready;
    read(ready[0], &is_ready, 1);
    kill(child, SIGUSR1);
    wait_for("SIGUSR1", child);
    // From the first handler on, libc's own end processes another way.
    signal(SIGUSR2, on_signal);
    wait_for("abort, with handlers", child_of(aborts));
    child = child_of(sleeps);
    kill(child, SIGTERM);
    wait_for("SIGTERM, with handlers", child);
    child = child_of(raises);
    wait_for("SIGKILL to itself", child);
    int failed = kill(77, SIGTERM);
    printf("no process: %s\n", failed ? name(failed) : "done");
}

// As many as there may be: the one that may not be is refused, and those that are no more make room.
static void of_limits(void) {
    int born = 0;
    while (born < 1000 && child_of(sleeps) > 0) born++;
    printf("born %d, then %s\n", born, born < 1000 ? name(errno) : "more");
    kill(-1, SIGKILL);
    int ended = 0;
    while (waitpid(-1, NULL, 0) > 0) ended++;
    printf("ended %d\n", ended);
    wait_for("another", child_of(is_child));
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, BUFSIZ);
    pid_t first = fork();
    if (first < 0) {
        printf("fork: %s\n", name(errno));
        return 1;
    }
    if (first == 0) _exit(42);
    wait_for("first", first);
    of_memory();
    of_descriptors();
    of_files(argc > 1 ? argv[1] : "/file");
    of_numbers();
    of_ends();
    of_limits();
    return 0;
}
