"""What the checks ask about a roll: who is on trial, which roll it is, which slots it moves."""

from bkd.supervisor.cluster import Group, Phase, Roll, Slot, Stage, Worker

RollKey = tuple[str, int, float]


def on_trial(group: Group, release: int) -> bool:
    """Whether what this release does is its roll's affair."""
    roll = group.roll
    return roll is not None and roll.new == release and roll.stage != Stage.ABORTING


def key(group: str, roll: Roll) -> RollKey:
    """What no other roll has: one that nobody asked for has the ticket of the last one."""
    return group, roll.wanted.ticket, roll.began


def eligible(group: Group) -> list[Slot]:
    """The slots that are moved."""
    return [slot for slot in group.slots.values() if not (slot.held or slot.retired)]


def stalls(group: Group, row: Worker, now: float) -> bool:
    """Whether a worker of the roll is ready for so long, and its loop has not turned to the end of its probation."""
    settings, roll = group.settings, group.roll
    ours = roll is not None and row.release == roll.new and row.phase == Phase.READY and row.watched
    late = now >= row.ready_at + settings.min_ready + settings.start_timeout
    return ours and late and row.progress < row.ready_at + settings.min_ready
