package admin

import (
	"errors"
	"fmt"
	"net/http"

	"github.com/outrigger-mesh/outrigger/internal/violation"
)

// Violation is one thing that is wrong with an input.
type Violation = violation.Violation

// Problem is an error as it travels: a problem document of RFC 9457.
type Problem struct {
	// Type is a short identifier, relative to the API: "invalid", "not-found", "conflict", ….
	Type string `json:"type"`
	// Title says it in a few words, Detail in a sentence.
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail,omitempty"`
	// Violations are all that is wrong with the input.
	Violations []Violation `json:"violations,omitempty"`
}

// Error is the detail and every violation, a line each.
func (p *Problem) Error() string {
	s := p.Detail
	if s == "" {
		s = p.Title
	}
	for _, v := range p.Violations {
		s += "\n  " + v.String()
	}
	return s
}

// Invalid is the problem of an input that was refused; nothing was changed.
func Invalid(v []Violation) *Problem {
	n := "1 problem"
	if len(v) != 1 {
		n = fmt.Sprintf("%d problems", len(v))
	}
	return &Problem{
		Type: "invalid", Title: "invalid input", Status: http.StatusUnprocessableEntity,
		Detail: n + ", nothing was changed:", Violations: v,
	}
}

// NotFound says that what was named does not exist. hint may be "".
func NotFound(what, hint string) *Problem {
	d := what + " not found"
	if hint != "" {
		d += " (" + hint + ")"
	}
	return &Problem{Type: "not-found", Title: "not found", Status: http.StatusNotFound, Detail: d}
}

// Conflict says that the state in force is not the one expected.
func Conflict(detail string) *Problem {
	return &Problem{Type: "conflict", Title: "conflict", Status: http.StatusConflict, Detail: detail}
}

// BadRequest says that the request itself cannot be understood.
func BadRequest(format string, a ...any) *Problem {
	return &Problem{Type: "bad-request", Title: "bad request", Status: http.StatusBadRequest, Detail: fmt.Sprintf(format, a...)}
}

// problemOf makes any error a Problem.
func problemOf(err error) *Problem {
	var p *Problem
	if errors.As(err, &p) {
		return p
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return &Problem{
			Type: "too-large", Title: "body too large", Status: http.StatusRequestEntityTooLarge,
			Detail: fmt.Sprintf("the body is larger than %d bytes", tooLarge.Limit),
		}
	}
	return &Problem{Type: "failed", Title: "failed", Status: http.StatusInternalServerError, Detail: err.Error()}
}
