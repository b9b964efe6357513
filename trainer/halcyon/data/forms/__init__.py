"""The usual forms of rows with conversations: which fields of a row hold what, and the messages in them.

Published data has few forms: messages, ShareGPT, Alpaca, prompt and completion, pairs. `form` recognises the form of a
source by the names of its fields; `messages` makes messages of a row. Both are pure. Sources of the forms: the data
formats of OpenAI's fine-tuning API, TRL (dataset formats), LLaMA-Factory (data/README.md), axolotl and nanochat.
"""
