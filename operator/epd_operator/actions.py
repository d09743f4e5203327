"""What a plan may ask to be done: one API call each, safe to repeat after a crash."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, unique
from typing import Any, TypeAlias

from epd_operator.objects import Manifest, Ref


@dataclass(frozen=True, slots=True)
class Note:
    """What users read about an action: one CamelCase word and one sentence.

    Attributes:
        reason: The word.
        message: The sentence.
        about: The object it is about, in the words of the sentence; part of what makes two notes
            the same note.
        is_warning: Something is amiss.
    """

    reason: str
    message: str
    about: str = ""
    is_warning: bool = False


@dataclass(frozen=True, slots=True)
class Create:
    """Create an object; that it exists already is no failure, for then an earlier pass made it."""

    manifest: Manifest
    note: Note


@dataclass(frozen=True, slots=True)
class Apply:
    """Make an object say what the manifest says, whether it exists or not."""

    manifest: Manifest
    note: Note


@dataclass(frozen=True, slots=True)
class Patch:
    """Merge a body into an object that still has the version it was planned with."""

    ref: Ref
    version: str
    body: Mapping[str, Any]
    note: Note | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Delete one object, and no other of its name."""

    ref: Ref
    uid: str
    note: Note


@unique
class Secrecy(Enum):
    """The Secrets whose content the operator makes up."""

    AUTHORITY = "authority"
    LEAF = "certificate"
    API_KEY = "API key"


@dataclass(frozen=True, slots=True)
class MakeSecret:
    """Write a Secret with freshly made keys, if it still has the version it was planned with.

    Attributes:
        what: Which Secret.
        present: The Secret as it is; None if there is none.
    """

    what: Secrecy
    present: Manifest | None
    note: Note


Action: TypeAlias = Create | Apply | Patch | Delete | MakeSecret


@dataclass(slots=True)
class Steps:
    """The actions of a plan in their order, and when to look again though nothing changed.

    Attributes:
        actions: The actions.
        troubles: What stands in the way and cannot be planned around.
        look_again_s: Seconds until time alone may change the plan; None: never.
    """

    actions: list[Action] = field(default_factory=list)
    troubles: list[Note] = field(default_factory=list)
    look_again_s: float | None = None

    def within(self, seconds: float) -> None:
        """Look again in at most so many seconds."""
        seconds = max(seconds, 0.1)
        soonest = seconds if self.look_again_s is None else min(self.look_again_s, seconds)
        self.look_again_s = soonest
