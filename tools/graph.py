"""Check, show or draw a graph file or an experiment file.

python tools/graph.py check configs/mavil.yaml configs/graphs/mavil_stage1.yaml
python tools/graph.py show configs/graphs/mavil_stage1.yaml --json
python tools/graph.py draw configs/mavil.yaml --out pictures/
"""

from avssl.errors import run_tool
from avssl.graph.command import main

if __name__ == "__main__":
    run_tool(main)()
