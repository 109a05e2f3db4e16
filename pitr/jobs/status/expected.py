# SPDX-License-Identifier: GPL-2.0-or-later
"""What the policies of the configuration expect of VMs: how old the newest point may be, and when the next run comes.

The engine is not asked. Which VMs have a tag is known from the last run of the policy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from pitr.model import VMName, known_name
from pitr.repository import Repository, history

if TYPE_CHECKING:
    from pitr.jobs.policy_run.policy import Policy


@dataclass(frozen=True, slots=True)
class Expectation:
    """What is expected of a VM. None: any age is fine, and no run is known."""

    max_age: timedelta | None = None
    next_run: datetime | None = None


@dataclass(frozen=True, slots=True)
class ExpectedRuns:
    """Policies; the VMs (ids) of the last run of those with tags, and when the next run comes, by policy.

    Where names are sealed, the last run also tells which VMs the names of a policy mean.
    """

    policies: Sequence[Policy] = ()
    last_members: Mapping[str, frozenset[str]] = field(default_factory=dict)
    next_runs: Mapping[str, datetime] = field(default_factory=dict)

    def of(self, vm: VMName) -> Expectation:
        """Return what the policies that cover the VM expect: the shortest age, and the earliest run."""
        covering = [policy for policy in self.policies if self._covers(policy, vm)]
        ages = [policy.max_age for policy in covering if policy.max_age is not None]
        runs = [self.next_runs[policy.name] for policy in covering if policy.name in self.next_runs]
        return Expectation(min(ages, default=None), min(runs, default=None))

    def _covers(self, policy: Policy, vm: VMName) -> bool:
        choice = policy.choice
        if any(pattern == vm.id or fnmatchcase(vm.name, pattern) for pattern in choice.exclude):
            return False
        members = self.last_members.get(policy.name)
        if members is not None and (choice.exclude_tags or known_name(vm.name) is None):
            return vm.id in members
        if choice.every or {vm.id, vm.name} & set(choice.vms):
            return True
        return members is not None and vm.id in members


def expected_runs(
    repository: Repository, policies: Sequence[Policy], next_runs: Mapping[str, datetime]
) -> ExpectedRuns:
    """Return what these policies expect. Raises RepositoryError."""
    members = {
        policy.name: found
        for policy in policies
        if policy.choice.tags or policy.choice.exclude_tags or not repository.opens
        for found in [_last_members(repository, policy)]
        if found
    }
    return ExpectedRuns(policies, members, next_runs)


def _last_members(repository: Repository, policy: Policy) -> frozenset[str]:
    """Return the ids of the VMs of the policy's last run that had any; none if it never ran."""
    for outcome in history.outcomes(repository.store, command="run"):
        if outcome.policy == policy.name:
            found = {step.vm.id for step in outcome.steps if step.vm is not None and step.vm.id is not None}
            if found:
                return frozenset(found)
    return frozenset()
