"""The tool; verifiers starts it in a process of its own, and speaks MCP with it."""

import verifiers.v1 as vf


class Calculator(vf.Toolset[vf.ToolsetConfig]):
    """Adds."""

    TOOL_PREFIX = "calculator"

    @vf.tool
    def add(self, a: int, b: int) -> str:
        """Add two whole numbers."""
        return str(a + b)


if __name__ == "__main__":
    Calculator.run()
