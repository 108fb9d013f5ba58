"""How the GEMMs of a layer are cut into programs: rules of thumb and what was measured."""
