// A server of several processes: each takes connections of the one listener, and the first starts another for each
// that ends. On SIGTERM it ends them, waits for them, and leaves.
#include "common.h"
#include <signal.h>
#include <sys/wait.h>

enum { PROCESSES = 2 };

static volatile sig_atomic_t leaves;

static void on_term(int signal) {
    (void)signal;
    leaves = 1;
}

static void answer(int client, unsigned *served) {
    char request[4096] = "";
    ssize_t got = recv(client, request, sizeof request - 1, 0);
    if (got > 0 && !strncmp(request, "GET /exit ", 10)) _exit(3);
    if (got > 0 && !strncmp(request, "GET /crash ", 11)) abort();
    char body[96];
    int length = snprintf(body, sizeof body, "process %d of %d, request %u\n", getpid(), getppid(), ++*served);
    send_resp(client, 0, body, length);
    close(client);
}

static void serve(int listener) {
    signal(SIGTERM, SIG_DFL);
    for (unsigned served = 0;;) {
        int client = accept(listener, NULL, NULL);
        if (client >= 0) answer(client, &served);
    }
}

static int begin(int listener) {
    pid_t child = fork();
    if (child == 0) serve(listener);
    if (child < 0) perror("fork");
    return child;
}

int main(int argc, char **argv) {
    int listener = listen_on(port_from(argc, argv)), status;
    pid_t children[PROCESSES];
    // It interrupts a wait.
    struct sigaction term = {.sa_handler = on_term};
    sigaction(SIGTERM, &term, NULL);
    for (int i = 0; i < PROCESSES; i++)
        if ((children[i] = begin(listener)) < 0) return 1;
    while (!leaves) {
        pid_t ended = waitpid(-1, &status, 0);
        for (int i = 0; ended > 0 && i < PROCESSES; i++) {
            if (children[i] != ended) continue;
            if (WIFEXITED(status)) fprintf(stderr, "process %d exited with %d\n", ended, WEXITSTATUS(status));
            else fprintf(stderr, "process %d was ended by signal %d\n", ended, WTERMSIG(status));
            if (!leaves) children[i] = begin(listener);
        }
    }
    for (int i = 0; i < PROCESSES; i++) kill(children[i], SIGTERM);
    int left = 0;
    while (waitpid(-1, &status, 0) > 0) left++;
    fprintf(stderr, "%d processes have left\n", left);
    return 0;
}
