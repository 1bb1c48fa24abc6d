"""What every room stands on: errors, measured numbers with intervals, files on disk, display in notebooks, progress."""
