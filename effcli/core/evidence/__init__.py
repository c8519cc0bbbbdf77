"""What a run leaves as evidence: its result, its report, tables over runs, and claims."""
