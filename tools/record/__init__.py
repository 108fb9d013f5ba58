"""Records what a release of vLLM decides on platforms that are not there: docs/recording.md."""
