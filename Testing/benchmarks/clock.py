"""CPU time and wall time of contenders that take turns in one process."""

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Timing:
    """Milliseconds: the least CPU time of the process (all its threads), the median and the least wall time."""

    cpu_ms: float
    wall_ms: float
    least_wall_ms: float
    rounds: int

    def as_dict(self) -> dict[str, float]:
        return {name: round(value, 3) for name, value in asdict(self).items()}


def take_turns(contenders: dict[str, Callable[[], object]], seconds: float, least: int = 3) -> dict[str, Timing]:
    """Run each once to warm up, then one after the other, round by round, until `seconds` are over.

    A quick contender runs several times in its turn, for at most a tenth of the slowest one's time, so that its
    minimum is found under the same disturbances as that of the slow one. It still has more tries at a quiet moment than
    the slow one: on a busy machine that favours the quick.
    """
    once = {}
    for name, run in contenders.items():
        run()
        start = time.perf_counter()
        run()
        once[name] = time.perf_counter() - start
    repeats = {name: max(1, min(20, int(0.1 * max(once.values()) / t))) for name, t in once.items()}
    cpu, wall = ({name: [] for name in contenders} for _ in range(2))
    end, rounds = time.perf_counter() + seconds, 0
    while rounds < least or time.perf_counter() < end:
        for name, run in contenders.items():
            for _ in range(repeats[name]):
                cpu_start, wall_start = time.process_time(), time.perf_counter()
                run()
                wall[name].append(time.perf_counter() - wall_start)
                cpu[name].append(time.process_time() - cpu_start)
        rounds += 1
    return {
        name: Timing(1e3 * min(cpu[name]), 1e3 * statistics.median(wall[name]), 1e3 * min(wall[name]), len(cpu[name]))
        for name in contenders
    }
