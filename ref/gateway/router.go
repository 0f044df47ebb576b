package gateway

import (
	"net/http"
	"strings"

	"qmtl.internal/plumbline/scenarios/contract"
	"qmtl.internal/plumbline/scenarios/contract/pyjson"
)

// router finds the handler of a request and otherwise answers as the original's
// framework does (gateway.md 1.0): 404 and 405 as JSON, 307 for a slash too
// many or too few. The standard mux differs in all three.
type router struct {
	routes []route
}

// route is one path and one of its methods. In path a segment {name} stands for
// any one segment, which the handler reads with PathValue.
type route struct {
	method   string
	segments []string
	handler  http.Handler
}

func (rt *router) add(method, path string, h http.HandlerFunc) {
	rt.routes = append(rt.routes, route{method, strings.Split(path, "/"), h})
}

// match says whether a path of these segments is the route's and stores its
// variables in r.
func (rt *route) match(segments []string, r *http.Request) bool {
	if len(segments) != len(rt.segments) {
		return false
	}
	for i, want := range rt.segments {
		name, variable := strings.CutPrefix(want, "{")
		switch {
		case variable && segments[i] != "":
			r.SetPathValue(strings.TrimSuffix(name, "}"), segments[i])
		case want != segments[i]:
			return false
		}
	}
	return true
}

func (rt *router) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	other := "" // method of the first route whose path fits
	segments := strings.Split(r.URL.Path, "/")
	for i := range rt.routes {
		one := &rt.routes[i]
		if !one.match(segments, r) {
			continue
		}
		if one.method == r.Method {
			one.handler.ServeHTTP(w, r)
			return
		}
		if other == "" {
			other = one.method
		}
	}
	switch {
	case other != "":
		w.Header().Set("Allow", other)
		answerProblem(w, plain(http.StatusMethodNotAllowed))
	case rt.slashed(r):
		redirect(w, r)
	default:
		answerProblem(w, plain(http.StatusNotFound))
	}
}

// otherSlash is path with its last slash taken away or one added.
func otherSlash(path string) string {
	if cut, ok := strings.CutSuffix(path, "/"); ok {
		return strings.TrimRight(cut, "/")
	}
	return path + "/"
}

func (rt *router) slashed(r *http.Request) bool {
	if r.URL.Path == "/" {
		return false
	}
	segments := strings.Split(otherSlash(r.URL.Path), "/")
	for i := range rt.routes {
		if rt.routes[i].match(segments, r) {
			return true
		}
	}
	return false
}

// redirect answers 307 with an absolute address and an empty body.
func redirect(w http.ResponseWriter, r *http.Request) {
	to := *r.URL
	to.Scheme, to.Host = "http", r.Host
	to.Path, to.RawPath = otherSlash(r.URL.Path), ""
	w.Header().Set("Location", to.String())
	w.Header().Set("Content-Length", "0")
	w.WriteHeader(http.StatusTemporaryRedirect)
}

func plain(status int) *contract.Problem {
	return &contract.Problem{Status: status, Detail: pyjson.OfString(http.StatusText(status))}
}
