"""What the commands show of a root, a plan, the data, an optimizer or a tokenizer: plain values, drawn for a
terminal.
"""
