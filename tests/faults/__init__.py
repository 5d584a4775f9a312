"""What happens when a disk, a file, a network or a stranger does what it should not; docs/faults.md is the table."""
