"""Makes an index YAML of anyone's RAW files, whatever they are called and wherever they lie."""
