#!/usr/bin/env python3
"""Runs the tests of WebAssembly/wasi-testsuite for preview1 and WASI 0.3 on anyport, with the suite's own runner.

known-failures.toml lists each test that is known to fail, with its reason. The exit code is 1 if a test fails that
is not listed, or a listed one passes.

Run conformance/setup.sh once before, which fetches the suite, and `cargo build --release` for anyport itself.
$WASI_TESTSUITE names a checkout to use instead; its tests must be compiled, as on its branch prod/testsuite-base.
"""

import argparse
import enum
import os
import pathlib
import sys
import tomllib
from collections.abc import Iterator

CONFORMANCE = pathlib.Path(__file__).resolve().parent
ROOT = CONFORMANCE.parent

# No __pycache__ here nor in the checkout.
sys.dont_write_bytecode = True


def main() -> int:
    options = parse_arguments()
    if not options.anyport.exists():
        sys.exit(f"there is no {options.anyport}: run `cargo build --release`")
    os.environ["ANYPORT"] = str(options.anyport)
    known = {
        failure["test"]: failure["reason"]
        for failure in tomllib.loads((CONFORMANCE / "known-failures.toml").read_text()).get("failure", [])
    }
    tests = [test for test in find_tests(options.testsuite) if options.only in test]
    if not tests:
        sys.exit(f"no tests in {options.testsuite}: run conformance/setup.sh")
    outcomes = dict(run(options, tests))
    failed = {test: failures for test, failures in outcomes.items() if failures}
    for test, failures in failed.items():
        print(f"\n## {test}{': known' if test in known else ''}\n\n{known.get(test, failures).strip()}")
    unknown = [test for test in failed if test not in known]
    gone = [test for test in known if test not in failed and (test in outcomes or not options.only)]
    for test in gone:
        print(f"\n## {test}: does not fail any more, take it out of known-failures.toml")
    print(f"\n{len(outcomes)} tests, {len(outcomes) - len(failed)} passed,", end=" ")
    print(f"{len(failed) - len(unknown)} known failures, {len(unknown)} unknown, {len(gone)} gone")
    return 1 if unknown or gone else 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    checkout = os.environ.get("WASI_TESTSUITE") or CONFORMANCE / ".peers/wasi-testsuite"
    parser.add_argument("--anyport", type=pathlib.Path, default=ROOT / "target/release/anyport")
    parser.add_argument("--testsuite", type=pathlib.Path, default=checkout, help="a checkout of wasi-testsuite")
    parser.add_argument("--adapter", type=pathlib.Path, default=CONFORMANCE / "anyport.py", help="of another runtime")
    parser.add_argument("only", nargs="?", default="", metavar="NAME", help="run the tests whose name has this in it")
    return parser.parse_args()


def find_tests(checkout: pathlib.Path) -> dict[str, pathlib.Path]:
    """`LANGUAGE/TARGET/TEST` to its module."""
    modules = sorted(checkout.glob("tests/*/testsuite/wasm32-wasip[13]/*.wasm"))
    return {f"{module.parents[2].name}/{module.parent.name}/{module.stem}": module for module in modules}


def run(options: argparse.Namespace, names: list[str]) -> Iterator[tuple[str, str]]:
    """Each test with what was wrong, or nothing.

    The runner's own loop over tests needs a Python newer than Debian's and a package for colours, so this is another
    one around what runs a single test.
    """
    look_for_values()
    sys.path.insert(0, str(options.testsuite / "test-runner"))
    from wasi_test_runner import test_suite_runner as runner
    from wasi_test_runner.runtime_adapter import RuntimeAdapter
    from wasi_test_runner.test_case import WasiVersion
    from wasi_test_runner.test_suite import TestSuiteMeta

    runtime = RuntimeAdapter(str(options.adapter))
    print(f"{runtime.get_meta()}, {len(names)} tests")
    modules = find_tests(options.testsuite)
    for name in names:
        path = str(modules[name])
        language, version, _ = name.split("/")
        meta = TestSuiteMeta(language, WasiVersion(version), runtime.get_meta())
        spec = runner._TestSpec(path=path, name=name, config=runner._read_test_config(path))
        result = runner._execute_single_test(runtime, meta, spec, False).result
        remove_links(modules[name].parent)
        yield name, "\n".join(failure.message or failure.type for failure in result.failures)


def remove_links(folder: pathlib.Path) -> None:
    """The runner removes what a test leaves behind, but for links, which other tests then find."""
    for path in folder.glob("*.dir/*.cleanup"):
        if path.is_symlink():
            path.unlink()


def look_for_values() -> None:
    """Lets the runner ask whether a text is a value of an enum, which Python before 3.12 refuses."""
    if sys.version_info < (3, 12):
        enum.EnumType.__contains__ = lambda members, value: any(value in (member, member.value) for member in members)


if __name__ == "__main__":
    sys.exit(main())
