"""Records what a release of vLLM decides on machines that are not there: docs/recording.md."""
