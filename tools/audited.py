"""What a script of `tools/` shows of an audit in its table."""

from keelback.audit import AuditResult


def in_a_row(result: AuditResult) -> dict[str, str]:
    """How many layers were read, how exactly they replay, and the verdict."""
    proved = [own.replay.difference for own in result.measures]
    return {
        "read": f"{len(result.measures)} of {len(result.found)}",
        "replay": f"{max(proved):.1e}" if proved else "",
        "verdict": result.verdict,
    }
