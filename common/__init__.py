"""The ground that all rooms stand on: errors that a command line prints, atomic files, options from dataclasses."""
