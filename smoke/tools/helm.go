package tools

var helm = &module{folder: "helm", source: "helm.sh/helm/v4", coldMinutes: 2}

// Helm is Helm's command, of version 4, which people have. What tests do with its
// library they do with that of version 3.
var Helm = helm.tool("helm", "helm.sh/helm/v4/cmd/helm")
