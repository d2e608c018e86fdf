// What clang calls for setjmp and longjmp: the libc at hand has none. A jump is an exception with its place and number;
// each function that called setjmp catches all, and asks of each whether it is one of its own.
#include <setjmp.h>

struct jump { void *to; int value; };
struct place { void *of; unsigned label; struct jump jump; };
_Static_assert(sizeof(struct place) <= sizeof(jmp_buf), "it is kept in the program's own");

void __wasm_setjmp(void *to, unsigned label, void *of) {
    struct place *place = to;
    place->of = of;
    place->label = label;
}

unsigned __wasm_setjmp_test(void *to, void *of) {
    const struct place *place = to;
    return place->of == of ? place->label : 0;
}

void __wasm_longjmp(void *to, int value) {
    struct place *place = to;
    place->jump = (struct jump){to, value ? value : 1};
    __builtin_wasm_throw(1, &place->jump);
}
