"""Why a policy's actions do not do the task: figures from recorded episodes, and findings in words."""
