"""Raw NIXL: READs between two processes of this machine, and a plain copy beside them.

    python bench/nixl_raw.py --sizes-mib 1,16,256 --out FILE

As our engines use it on a CPU: UCX over shared memory or TCP, no progress thread; the giving side
advances inside its own calls, the taking side by asking for the state of its transfer.
"""

import argparse
import json
import multiprocessing as mp
import os
import statistics
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

MIB = 1 << 20
SETTINGS = {"enable_prog_thread": False, "backends": ["UCX"], "num_threads": 0}


def give(size: int, pipe: Connection) -> None:
    """Hold a buffer that others may read, until told to end."""
    import numpy as np
    from nixl._api import nixl_agent, nixl_agent_config

    agent = nixl_agent("giver", nixl_agent_config(**SETTINGS))
    source = np.arange(size // 8, dtype=np.uint64)
    agent.register_memory([(source.ctypes.data, size, 0, "")], "DRAM")
    pipe.send((agent.get_agent_metadata(), source.ctypes.data))
    while not pipe.poll(0.0005):
        agent.get_new_notifs()  # without a progress thread, this is what makes it advance
    pipe.recv()


def timed(work: Callable[[], None], repeats: int) -> dict[str, float]:
    """Return the first time, which sets things up, and the median of the others, in ms."""
    times_ms = []
    for _ in range(repeats + 1):
        start_s = time.perf_counter()
        work()
        times_ms.append(1e3 * (time.perf_counter() - start_s))
    return {"first_ms": times_ms[0], "median_ms": statistics.median(times_ms[1:])}


def take(sizes: list[int], repeats: int, pipe: Connection) -> list[dict[str, Any]]:
    """Read each size from the giver, and copy as much within this process."""
    import numpy as np
    from nixl._api import nixl_agent, nixl_agent_config

    agent = nixl_agent("taker", nixl_agent_config(**SETTINGS))
    target = np.zeros(max(sizes) // 8, dtype=np.uint64)
    source = np.arange(max(sizes) // 8, dtype=np.uint64)
    agent.register_memory([(target.ctypes.data, max(sizes), 0, "")], "DRAM")
    metadata, address = pipe.recv()
    giver = agent.add_remote_agent(metadata)
    rows = []
    for size in sizes:

        def read(size: int = size) -> None:
            here = agent.get_xfer_descs([(target.ctypes.data, size, 0)], "DRAM")
            there = agent.get_xfer_descs([(address, size, 0)], "DRAM")
            transfer = agent.initialize_xfer("READ", here, there, giver, b"")
            state = agent.transfer(transfer)
            while state not in ("DONE", "ERR"):
                state = agent.check_xfer_state(transfer)
            agent.release_xfer_handle(transfer)
            if state == "ERR":
                raise SystemExit("a NIXL transfer failed")

        target[:] = 0
        nixl = timed(read, repeats)
        if not np.array_equal(target[: size // 8], source[: size // 8]):
            raise SystemExit("NIXL read something else than was written")

        def copy(size: int = size) -> None:
            np.copyto(target[: size // 8], source[: size // 8])

        rows.append({"size_bytes": size, "nixl": nixl, "memcpy": timed(copy, repeats)})
    pipe.send(None)
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sizes-mib", default="1,16,256")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    os.environ.setdefault("UCX_TLS", "tcp,sm,self")
    sizes = [round(float(mib) * MIB) for mib in given.sizes_mib.split(",")]
    spawning = mp.get_context("spawn")
    ours, theirs = spawning.Pipe()
    giver = spawning.Process(target=give, args=(max(sizes), theirs), daemon=True)
    giver.start()
    given.out.write_text(json.dumps(take(sizes, given.repeats, ours)))
    giver.join(10)


if __name__ == "__main__":
    main()
