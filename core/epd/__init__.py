"""The shared language of the EPD programs: words, API models, wire format, arithmetic, metrics."""
