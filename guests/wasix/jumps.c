// One thread that blocks; what is wrong with a request is told by longjmp, out of the functions that look at it. Clang
// makes WebAssembly's exceptions of that.
#include "common.h"
#include <setjmp.h>
#include <strings.h>

static jmp_buf faulty;

static void look(const struct req *r, int depth) {
    if (depth > 0) { look(r, depth - 1); return; }
    if (!strcmp(r->path, "/fault")) longjmp(faulty, 418);
}

static void answer(int c, const struct req *r) {
    char body[512];
    int code = setjmp(faulty);
    if (code) { send_resp(c, 0, body, snprintf(body, sizeof body, "jumped with %d\n", code)); return; }
    look(r, 10);
    send_resp(c, 0, body, snprintf(body, sizeof body, "hello from wasix jumps %s %s\n", r->method, r->path));
}

int main(int argc, char **argv) {
    int s = listen_on(port_from(argc, argv));
    for (;;) {
        int c = accept(s, NULL, NULL);
        if (c < 0) { perror("accept"); return 5; }
        char buf[8192]; size_t have = 0; struct req r; int ok = 0;
        while (!ok && have < sizeof buf - 1) {
            ssize_t k = recv(c, buf + have, sizeof buf - 1 - have, 0);
            if (k <= 0) break;
            have += (size_t)k; buf[have] = 0;
            ok = parse_req(buf, have, &r);
        }
        if (ok == 1) answer(c, &r);
        shutdown(c, SHUT_RDWR);
        close(c);
    }
}
