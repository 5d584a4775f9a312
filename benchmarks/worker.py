"""The process of one contender: it builds and warms up the call, then times it as often as the driver asks.

It answers in JSON lines: first {"ready": ...} or {"skipped": reason}; then, for each number of calls on standard input,
{"seconds": [...]} with the seconds of each call.
"""

from __future__ import annotations

import json
import resource
import sys
import time

from benchmarks.contenders import CONTENDERS
from benchmarks.contenders.setting import NotAvailable, Setting


def main() -> None:
    """Serve one contender; the arguments are its name, the suite and the setting as JSON."""
    name, suite, setting = sys.argv[1], sys.argv[2], Setting(**json.loads(sys.argv[3]))
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(content: dict[str, object]) -> None:
        print(json.dumps(content), file=answers, flush=True)

    contender = CONTENDERS[name]
    if missing := contender.missing():
        return answer({"skipped": f"not installed: {', '.join(missing)}"})
    try:
        started = time.perf_counter()
        compiling = seconds_of_compilation() if "jax" in contender.needs else []
        call = contender.call_of(suite, setting)
        cpu = [time.process_time()]
        call()
        first = time.perf_counter() - started
        cpu.append(time.process_time())
        call()
        cpu.append(time.process_time())
    except NotAvailable as reason:
        return answer({"skipped": str(reason)})
    # CPU time of the first call beyond that of the second, mostly for compilation.
    extra = (cpu[1] - cpu[0]) - (cpu[2] - cpu[1])
    answer(
        {
            "ready": True,
            "seconds_to_first_result": first,
            "compiling_s": sum(compiling),
            "first_call_extra_cpu_s": extra,
        }
    )
    for line in sys.stdin:
        seconds = []
        for _ in range(int(line)):
            started = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - started)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer({"seconds": seconds, "peak_bytes": peak})
    return None


def seconds_of_compilation() -> list[float]:
    """A list to which the seconds are added that XLA, or its cache, takes for each program from now on."""
    import jax

    seconds: list[float] = []

    def listen(event: str, duration_secs: float, **_: object) -> None:
        if event == "/jax/core/compile/backend_compile_duration":
            seconds.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(listen)
    return seconds


if __name__ == "__main__":
    main()
