"""Hundreds of random preemptions, deletions, edits and operator kills, after which every run must be in the right
state.

    python tests/bench/churn.py                       # 200 in ten minutes, among 40 runs
    python tests/bench/churn.py --actions 40 --seconds 120 --seed 7

Two operators share a Lease; at random times one of them is killed, or stopped and continued. At the end the API
server's audit log shows whether any JobSet was created twice for one attempt. The exit status is 0 if all checks
passed. The printed seed repeats the same choices.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import signal
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2]))

from halcyon_devcluster import Cluster
from halcyon_devcluster.audit import AuditLog, Request
from halcyon_operator.kube.client import ApiError
from tests.bench.fleet import (
    JOBSETS_API,
    NO_STORE,
    PODS_A_RUN,
    RUNS_API,
    Fleet,
    bench_cluster,
    cluster_options,
    dump,
    fleet,
    until_async,
)
from tests.cluster.operators import OperatorProcess, stores
from tests.page_block import write_block

SETTLE_SECONDS = 240
ACTIONS = {
    "evict": 8,
    "delete a pod": 4,
    "delete the JobSet": 3,
    "suspend or resume": 5,
    "edit a live field": 4,
    "edit the image": 3,
    "delete the run": 2,
    "make a run": 2,
    "kill an operator": 3,
    "stop an operator for a while": 2,
}


@dataclass
class Wanted:
    """The state that the user wants for a run."""

    suspended: bool = False
    edits: int = 0


@dataclass
class Churn:
    """The runs, the operators, and the actions done to them."""

    cluster: Cluster
    fleet: Fleet
    folder: Path
    dice: random.Random
    wanted: dict[str, Wanted] = field(default_factory=dict[str, Wanted])
    operators: list[OperatorProcess] = field(default_factory=list[OperatorProcess])
    done: Counter[str] = field(default_factory=Counter[str])
    made: int = 0
    started: int = 0

    def start_operator(self) -> OperatorProcess:
        """Start one more operator."""
        self.started += 1
        return OperatorProcess.start(
            f"churn-{self.started}",
            self.cluster.kubeconfig,
            self.fleet.namespace,
            self.folder,
            objectStore=stores(NO_STORE),
            lease={"namespace": self.fleet.namespace},
        )

    async def make_run(self) -> None:
        """Make one more run, with a new name."""
        self.made += 1
        await self.fleet.apply(f"run-{self.made}")
        self.wanted[f"run-{self.made}"] = Wanted()

    async def act(self) -> None:
        """Do one random action."""
        action = self.dice.choices(list(ACTIONS), list(ACTIONS.values()))[0]
        name = self.dice.choice(list(self.wanted))
        try:
            await self._do(action, name)
            self.done[action] += 1
        except ApiError as error:
            if error.code not in (404, 409, 429):  # its object was deleted a moment before
                raise
            self.done[f"{action}: came too late"] += 1

    async def _do(self, action: str, name: str) -> None:
        wanted = self.wanted[name]
        match action:
            case "evict" | "delete a pod":
                pods = (await self.fleet.running_pods()).get(name, [])
                if pods:
                    pod = self.dice.choice(pods)["metadata"]["name"]
                    await (self.fleet.evict(pod) if action == "evict" else self.fleet.delete("v1", "pods", pod))
            case "delete the JobSet":
                for jobset in await self.fleet.listed(*JOBSETS_API, f"halcyon.dev/run={name}"):
                    await self.fleet.delete(*JOBSETS_API, jobset["metadata"]["name"])
            case "suspend or resume":
                await self.fleet.edit(name, suspend=not wanted.suspended)
                wanted.suspended = not wanted.suspended
            case "edit a live field":
                wanted.edits += 1
                await self.fleet.edit(name, ttlSecondsAfterFinished=3600 + wanted.edits)
            case "edit the image":
                wanted.edits += 1
                await self.fleet.edit(name, image=f"registry.invalid/trainer:{wanted.edits}")
            case "delete the run":
                if len(self.wanted) > 5:
                    await self.fleet.delete(*RUNS_API, name)
                    del self.wanted[name]
            case "make a run":
                await self.make_run()
            case "kill an operator":
                place = self.dice.randrange(len(self.operators))
                self.operators[place].kill()
                self.operators[place] = self.start_operator()
            case _:
                operator = self.dice.choice(self.operators)
                operator.signal(signal.SIGSTOP)
                asyncio.get_running_loop().call_later(self.dice.uniform(1, 25), operator.signal, signal.SIGCONT)

    async def wrong(self) -> list[str]:
        """The wrong states; empty if all are right."""
        found: list[str] = []
        runs = {run["metadata"]["name"]: run for run in await self.fleet.listed(*RUNS_API)}
        jobsets: dict[str, list[dict[str, Any]]] = {}
        for jobset in await self.fleet.listed(*JOBSETS_API):
            jobsets.setdefault(jobset["metadata"]["labels"]["halcyon.dev/run"], []).append(jobset)
        pods = await self.fleet.running_pods()
        found += [
            f"{name} is {'missing' if name in self.wanted else 'still there'}"
            for name in runs.keys() ^ self.wanted.keys()
        ]
        found += [f"objects of {name} are left" for name in (jobsets.keys() | pods.keys()) - self.wanted.keys()]
        for name in runs.keys() & self.wanted.keys():
            if problem := self._problem(runs[name], self.wanted[name], jobsets.get(name, []), pods.get(name, [])):
                found.append(f"{name}: {problem}")
        return found

    @staticmethod
    def _problem(run: dict[str, Any], wanted: Wanted, jobsets: list[dict[str, Any]], pods: list[dict[str, Any]]) -> str:
        status = run.get("status", {})
        if status.get("observedGeneration") != run["metadata"]["generation"]:
            return "its status is of an older generation"
        if wanted.suspended:
            right = status.get("phase") == "Suspended" and not jobsets and not pods
            return (
                ""
                if right
                else f"should be suspended and is {status.get('phase')}, with {len(jobsets)} JobSets and {len(pods)} "
                "pods"
            )
        attempt = str(status.get("attempt"))
        names = [jobset["metadata"]["name"] for jobset in jobsets]
        if (
            status.get("phase") not in ("Starting", "Restarting")
            or len(jobsets) != 1
            or names != [status.get("jobSetName")]
        ):
            return f"is {status.get('phase')} in attempt {attempt} with JobSets {names}"
        attempts = Counter(pod["metadata"]["labels"]["halcyon.dev/attempt"] for pod in pods)
        return (
            ""
            if attempts == {attempt: PODS_A_RUN}
            else f"is in attempt {attempt} and has pods of attempts {dict(attempts)}"
        )


def created_twice(log: list[Request], namespace: str) -> dict[str, int]:
    """JobSets that were created more than once, with the number of creations."""
    created = Counter(
        request.name
        for request in log
        if (request.verb, request.resource, request.namespace, request.code) == ("create", "jobsets", namespace, 201)
    )
    return {name: count for name, count in created.items() if count > 1}


async def churn(cluster: Cluster, folder: Path, runs: int, actions: int, seconds: float, seed: int) -> str:
    """Run everything; returns a summary if all states are right at the end, else an empty text after printing the wrong
    states.
    """
    namespace, dice = f"churn-{secrets.token_hex(3)}", random.Random(seed)
    audit, log = AuditLog(cluster.paths.audit_log), list[Request]()
    async with fleet(cluster, namespace) as its:
        story = Churn(cluster, its, folder, dice)
        story.operators = [story.start_operator(), story.start_operator()]
        try:
            for _ in range(runs):
                await story.make_run()

            async def right() -> bool:
                log.extend(audit.new())
                return not await story.wrong()

            await until_async(right, SETTLE_SECONDS, "all runs have their pods")
            began = asyncio.get_running_loop().time()
            for number in range(actions):
                await story.act()
                log.extend(audit.new())
                rest = began + (number + 1) * seconds / actions - asyncio.get_running_loop().time()
                await asyncio.sleep(max(0.0, rest))
            took = asyncio.get_running_loop().time() - began
            try:
                await until_async(right, SETTLE_SECONDS, "all runs are as they should be", 2.0)
            except TimeoutError:
                print("\n".join(await story.wrong()))
                print(
                    dump(
                        {
                            name: status
                            for name, status in (await its.statuses()).items()
                            if name in " ".join(await story.wrong())
                        }
                    )
                )
                return ""
        finally:
            for operator in story.operators:
                operator.stop()
        log.extend(audit.new())
    twice = created_twice(log, namespace)
    created = sum(r.code == 201 for r in log if (r.verb, r.resource, r.namespace) == ("create", "jobsets", namespace))
    printed = "".join(f"{count:4}  {action}\n" for action, count in sorted(story.done.items()))
    printed += f"{actions} actions in {took:.0f} s (seed {seed}); {story.started} operators; "
    printed += f"{created} JobSets created, {len(twice)} of them twice\n"
    printed += f"{len(story.wanted)} runs, all in their right state\n" if not twice else f"created twice: {twice}\n"
    print(printed, end="")
    return "" if twice else printed


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--runs", type=int, default=40)
    arguments.add_argument("--actions", type=int, default=200)
    arguments.add_argument("--seconds", type=float, default=600)
    arguments.add_argument("--seed", type=int, default=secrets.randbelow(2**31))
    cluster_options(arguments)
    options = arguments.parse_args()
    print(f"seed {options.seed}", flush=True)
    with bench_cluster(options, "halcyon-churn-") as (cluster, folder):
        printed = asyncio.run(churn(cluster, folder, options.runs, options.actions, options.seconds, options.seed))
    if printed and options.page is not None:
        write_block(options.page, "churn", f"```\n{printed}```")
    sys.exit(0 if printed else 1)


if __name__ == "__main__":
    main()
