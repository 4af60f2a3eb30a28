// Package guest is what test/kernels and the init of its virtual machines tell each other: a plan, and a stream of messages.
package guest

// PlanPath is where the init finds its plan.
const PlanPath = "/plan.json"

// Port is the serial line that carries the messages, one JSON object each; the kernel's console has one of its own.
const Port = "/dev/ttyS1"

// Plan is what to do, in order.
type Plan struct {
	Modules []string // kernel modules to load, each after those it needs
	Tests   []Test
}

// Test is one test binary.
type Test struct {
	Package string // as go test names it
	Binary  string
	Dir     string // working directory, as go test has it: below it lies testdata
	Args    []string
	Env     []string
	Return  []string // files below Dir to send back afterwards
}

// Message is one thing that happened. Exactly one of Kernel, Output, Exit, File, Error and Done is set.
type Message struct {
	Kernel  string `json:",omitempty"` // release of the kernel: the first message
	Package string `json:",omitempty"` // which test Output, Exit and File belong to
	Output  string `json:",omitempty"` // what it printed, cut anywhere
	Exit    *int   `json:",omitempty"` // its exit status
	File    string `json:",omitempty"` // a returned file's path below Dir
	Data    []byte `json:",omitempty"` // and what is in it
	Error   string `json:",omitempty"` // the init could not do something: nothing follows
	Done    bool   `json:",omitempty"` // the last message
}
