"""The teacher: preferences and intentions that a language model writes.

`questions` makes requests from a dataset folder, a transport (`online`,
`batch`, `jsonl`, or the rules of `offline`) has them answered, `store` keeps
every answer, and `annotations` reads them for the instructions (paper section
2.2.1).
"""
