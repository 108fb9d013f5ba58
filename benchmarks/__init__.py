"""Studies that are no part of the package: peers, CPU experts, selection; and results."""
