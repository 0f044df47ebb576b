package service

import (
	"net/url"
	"strings"
)

// SecretVar defines a flag that holds a secret, empty unless told. No help
// text, message or printed configuration shows it.
func SecretVar(fs *FlagSet, p *string, name, usage string) {
	*p = ""
	fs.Var((*secret)(p), name, usage)
}

type secret string

// masked stands for a secret that is set.
const masked = "********"

func (s *secret) Set(text string) error { *s = secret(text); return nil }

func (s *secret) String() string {
	if s == nil || *s == "" {
		return ""
	}
	return masked
}

// mask hides passwords inside the addresses of a comma list.
func mask(list string) string {
	all := strings.Split(list, ",")
	for i, text := range all {
		u, err := url.Parse(text)
		if err != nil || u.User == nil {
			continue
		}
		if password := rawPassword(text); password != "" {
			all[i] = strings.Replace(text, ":"+password+"@", ":"+masked+"@", 1)
		}
	}
	return strings.Join(all, ",")
}

// rawPassword is the password of an address as it was written, escapes and all.
func rawPassword(text string) string {
	_, rest, _ := strings.Cut(text, "://")
	authority, _, _ := strings.Cut(rest, "/")
	user := authority[:max(strings.LastIndex(authority, "@"), 0)]
	_, password, _ := strings.Cut(user, ":")
	return password
}
