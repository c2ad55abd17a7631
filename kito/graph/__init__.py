"""The graph: its parts (ir), from Keras (lift, trace) and back (codegen), and rewriting."""
