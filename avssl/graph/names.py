"""How the parts of a graph fit: every call, port and source resolved, nothing left unused.

A name that was reported as unknown counts as its closest match afterwards, so that one slip gives
one message.
"""

from avssl.graph.source import Place, Problems, nearest
from avssl.graph.spec import GraphSpec, Node, Source


def connect(spec: GraphSpec, problems: Problems) -> None:
    """Resolve all sources of ``spec`` and its sub-graphs in place; report what does not fit."""
    _Connector(spec, problems).connect()


class _Connector:
    def __init__(self, spec: GraphSpec, problems: Problems) -> None:
        self.spec = spec
        self.problems = problems
        self.called: set[str] = set()
        self.read: set[str] = set()
        self.read_inputs: set[str] = set()
        # An unknown name without a near match leaves open what was meant, and so what is unused.
        self.lost_module = self.lost_source = spec.unclear

    def connect(self) -> None:
        spec = self.spec
        for module in spec.modules.values():
            if module.kind == "graph" and module.graph is not None:
                connect(module.graph, self.problems)
            if module.kind == "ema" and module.source in spec.modules:
                self.called.add(str(module.source))
        above: list[str] = []
        for node in spec.nodes.values():
            self.connect_node(node, above)
            above.append(node.name)
        for loss in spec.losses.values():
            self.connect_node(loss, above)
            called = spec.modules.get(loss.call)
            if called is not None and called.signature and len(called.signature.outputs) != 1:
                outputs = ", ".join(called.signature.outputs)
                self.problems.add(
                    loss.call_place,
                    f"loss '{loss.name}' calls '{loss.call}', which returns {outputs}: a loss "
                    "returns one scalar.",
                )
        for source in spec.outputs.values():
            self.connect_source(source, above)
        for log in spec.log.values():
            for source in log.sources.values():
                self.connect_source(source, above)
        self.report_unused()

    def connect_node(self, node: Node, above: list[str]) -> None:
        module = self.spec.modules.get(node.call)
        if module is None:
            if node.call:
                names = list(self.spec.modules)
                self.problems.add(
                    node.call_place,
                    f"there is no module '{node.call}'.",
                    unknown=node.call,
                    known=names,
                )
                guess = nearest(node.call, names)
                self.called.add(guess or "")
                self.lost_module |= guess is None
            else:
                self.lost_module = True
        else:
            self.called.add(node.call)
        for source in node.inputs.values():
            self.connect_source(source, above)
        if module is None or module.signature is None:
            return
        ports = module.signature.ports
        unknown = [port for port in node.inputs if port not in ports]
        for port in unknown:
            self.problems.add(
                node.ports[port],
                f"'{node.call}' has no port '{port}'.",
                unknown=port,
                known=ports,
            )
        missing = [port for port, required in ports.items() if required and port not in node.inputs]
        self.lost_source |= bool(missing)  # the node meant for the port would seem unread
        for port in missing[len(unknown) :]:
            self.problems.add(
                node.place, f"port '{port}' of '{node.call}' is not connected in '{node.name}'."
            )

    def connect_source(self, source: Source, above: list[str]) -> None:
        """Resolve one source; a node's only output need not be named."""
        spec = self.spec
        if not source.node:
            self.lost_source = True
            return
        if source.node == "batch":
            if source.port in spec.inputs:
                self.read_inputs.add(source.port)
                return
            self.problems.add(
                source.place,
                f"there is no input 'batch.{source.port}'.",
                unknown=str(source.port),
                known=spec.inputs,
            )
            guess = nearest(str(source.port), spec.inputs)
            self.read_inputs.add(guess or "")
            self.lost_source |= guess is None
            return
        if source.node not in above:
            later = source.node in spec.calls
            self.problems.add(
                source.place,
                f"node '{source.node}' stands below; a node reads only what stands above it."
                if later
                else f"there is no node '{source.node}'.",
                unknown=None if later else source.node,
                known=[*above, "batch"],
            )
            guess = nearest(source.node, above)
            self.read.add(guess or "")
            self.lost_source |= later or guess is None
            return
        self.read.add(source.node)
        module = spec.modules.get(spec.nodes[source.node].call)
        if module is None or module.signature is None:
            return
        outputs = module.signature.outputs
        if source.port is None and len(outputs) == 1:
            source.port = outputs[0]
        elif source.port is None:
            self.problems.add(
                source.place,
                f"'{source.node}' has several outputs; name one of {', '.join(outputs)}.",
            )
        elif source.port not in outputs:
            self.problems.add(
                source.place,
                f"node '{source.node}' has no output '{source.port}'.",
                unknown=source.port,
                known=outputs,
            )

    def report_unused(self) -> None:
        spec = self.spec
        for name, module in spec.modules.items():
            if name not in self.called and not self.lost_module:
                self.problems.add(module.place, f"module '{name}' is never called.")
        for name, node in spec.nodes.items():
            if name not in self.read and not self.lost_source:
                self.problems.add(node.place, f"nothing reads the outputs of node '{name}'.")
        for name, item in spec.inputs.items():
            if name not in self.read_inputs and not self.lost_source:
                self.problems.add(item.place, f"no node reads the input '{name}'.")
        if spec.losses and not any(loss.active for loss in spec.losses.values()):
            first = next(iter(spec.losses.values()))
            self.problems.add(
                first.place, "every loss has weight 0 throughout, so nothing would be trained."
            )
        if not spec.losses and not spec.outputs and not spec.unclear:
            self.problems.add(
                Place(spec.place.file, 1, 1) if spec.path else spec.place,
                "a graph needs 'losses' (to be trained) or 'outputs' (as a sub-graph).",
            )
