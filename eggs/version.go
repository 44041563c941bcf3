package eggs

// BuildVersion is the version of this binary, set when it is linked.
var BuildVersion = "unknown"
