"""The teacher: preferences and intentions that a language model writes.

`prompts` makes questions of a dataset folder, a transport (`online`, `batch`,
or the rules of `offline`) gets them answered, `store` keeps every answer, and
`annotations` reads them back for the instructions (paper section 2.2.1).
"""
